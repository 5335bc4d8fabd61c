"""Overlap of tickets, compared with chance, and their sparsity in each layer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from orchestrator.report.data import formatting, sources
from orchestrator.sources.names import find_source
from orchestrator.store.ticket import Ticket, compare_tickets

MAX_TICKETS = 12
"""Tickets in one heat map: more are not legible, and a base-size ticket takes 11 MB of memory."""


@dataclass(frozen=True, slots=True)
class TicketChoice:
    """Tickets of one model and sparsity that are compared with one another."""

    model: str
    sparsity: float
    kind: Literal["tasks", "chains"]
    """Found tickets of different tasks, or tickets of one task: seeds, rewind points, controls."""
    source: str
    """Source of the found tickets, such as `imp`."""
    tickets: pd.DataFrame
    """Rows of `tables.cell_scores` with a `label`."""


def choose_tickets(cells: pd.DataFrame, verdicts: pd.DataFrame) -> list[TicketChoice]:
    """Choose the tickets to compare for each model (and pool), each ticket once.

    If several tasks (or pre-training) have found tickets, these are compared: those of the source
    that comes first by rank, with the first seed and rewind point, at the two levels up to the
    median sparsity of the best winners. In addition, all tickets of one level are compared for the
    task that has the most: the best relaxed winner's level or, if no ticket wins, the deepest level
    with two tickets. A ticket that several cells use is named after the first cell.
    """
    choices: list[TicketChoice] = []
    with_ticket = cells[cells.ticket != ""]
    for (model, total), group in with_ticket.groupby(["model", "total"], sort=False):
        source = sources.reference_source(group.source)
        found = verdicts[(verdicts.model == model) & (verdicts.source == source)]
        several_pools = any(choice.model == model for choice in choices)
        name = f"{model}, {total:,} weights" if several_pools else str(model)
        choices += [replace(choice, model=name) for choice in _of_tasks(group, found, source)]
        choices += [replace(choice, model=name) for choice in _of_chains(group, found, source)]
    return choices


def _of_tasks(cells: pd.DataFrame, verdicts: pd.DataFrame, source: str) -> list[TicketChoice]:
    """Choose the found tickets of different tasks at the levels that most tasks have."""
    applied = sources.where(
        cells.source, lambda entry: entry.figure == "transfer" and entry.applies == source
    )
    found = cells[(cells.adversary == "none") & ((cells.source == source) | applied)]
    first = found.assign(label=sources.ticket_origins(found), transferred=found.source != source)
    first = first.sort_values(["rewind", "seed", "transferred"], kind="stable")
    first = first.drop_duplicates(["label", "planned_sparsity"]).drop_duplicates("ticket")
    sizes = first.groupby("planned_sparsity").size()
    fullest = sorted(sizes[sizes == sizes.max()].index)
    if not fullest or sizes.max() < 2 or len(set(found.task)) < 2:
        return []
    target = verdicts.groupby(["task", "metric"]).relaxed.max().median()
    last = len(fullest) - 1
    if pd.notna(target):
        last = int(np.argmin([abs(sparsity - target) for sparsity in fullest]))
    order = {label: i for i, label in enumerate(dict.fromkeys([*cells.task, *first.label]))}
    choices = []
    for sparsity in fullest[max(last - 1, 0) : last + 1]:
        tickets = first[first.planned_sparsity == sparsity]
        tickets = tickets.sort_values("label", key=lambda names: names.map(order))
        shown = tickets.head(MAX_TICKETS)
        choices.append(TicketChoice("", float(sparsity), "tasks", source, shown))
    return choices


def _of_chains(cells: pd.DataFrame, verdicts: pd.DataFrame, source: str) -> list[TicketChoice]:
    """Choose the tickets of the task that has the most, at one level."""
    tickets = cells[~sources.is_transferred(cells.source)].drop_duplicates("ticket")
    distinct = tickets.groupby("task", sort=False).size()
    if distinct.empty:
        return []
    task = distinct.idxmax()
    ranked = tickets.assign(rank=sources.standing(tickets.source))[tickets.task == task]
    ranked = ranked.sort_values("rank", kind="stable")
    sizes = ranked[ranked.source == source].groupby("planned_sparsity").size()
    if len(distinct) > 1 and sizes.max() < 2:
        return []  # a single chain adds nothing to the comparison of tasks
    sizes = ranked.groupby("planned_sparsity").size()
    comparable = sizes[sizes > 1].index
    if not len(comparable):
        return []
    best = verdicts[verdicts.task == task].relaxed.max()
    sparsity = comparable.max()
    if pd.notna(best):
        sparsity = min(comparable, key=lambda candidate: abs(candidate - best))
    at_level = ranked[ranked.planned_sparsity == sparsity].head(MAX_TICKETS)
    named = at_level.assign(label=_labels(at_level))
    return [TicketChoice("", float(sparsity), "chains", source, named)]


def _labels(tickets: pd.DataFrame) -> list[str]:
    """Return short unique names: source, rewind point, seed, and whatever else differs."""
    varying = [
        name for name in ("variant", "task", "recipe", "schedule") if tickets[name].nunique() > 1
    ]
    labels = []
    for row in tickets.to_dict("records"):
        source = find_source(row["source"])
        rewind = "" if source.entry.data_free else f" {formatting.theta(row['rewind'])}"
        extra = "".join(f" {row[column]}" for column in varying if row[column] != "default")
        labels.append(f"{source.label}{rewind}{extra} · s{row['seed']}")
    ambiguous = pd.Series(labels).duplicated(keep=False)
    named = zip(labels, tickets.ticket.str[:6], ambiguous, strict=True)
    return [f"{label} {sha256}" if add_hash else label for label, sha256, add_hash in named]


def fetch_tickets(
    tickets: pd.DataFrame, fetch_ticket: Callable[[str], Ticket]
) -> dict[str, Ticket]:
    """Fetch the chosen tickets, by label: those of the first one's kind, because tickets of two
    kinds cannot be compared."""
    fetched = {row.label: fetch_ticket(row.ticket) for row in tickets.itertuples()}
    kind = next(iter(fetched.values())).kind
    return {label: ticket for label, ticket in fetched.items() if ticket.kind == kind}


def overlaps(tickets: Mapping[str, Ticket]) -> pd.DataFrame:
    """Return one row per pair: Jaccard overlap of the kept weights (VLT, Fig. 8) and chance levels.

    `chance` is the expected overlap of two random tickets of these sizes, drawn over the whole
    pool: d / (2 - d) for equal densities d. For `chance_by_layer`, they are drawn layer by layer
    with each ticket's own counts, which matters if tickets favour the same layers.
    """
    pairs = itertools.combinations(tickets.items(), 2)
    rows = [{"a": a, "b": b, **_pair(left, right)} for (a, left), (b, right) in pairs]
    return pd.DataFrame(rows, columns=["a", "b", "jaccard", "chance", "chance_by_layer"])


def _pair(left: Ticket, right: Ticket) -> dict[str, float]:
    comparison = compare_tickets(left, right)
    return {
        "jaccard": comparison.total.jaccard,
        "chance": comparison.total.chance,
        "chance_by_layer": comparison.layerwise_chance,
    }


def layer_sparsity(tickets: Mapping[str, Ticket]) -> pd.DataFrame:
    """Return one row per ticket and tensor: `label`, `tensor`, `kind`, `depth`, `sparsity` (0..1).

    The first number in a tensor's name is its depth; the name after that number is its kind. A
    tensor without a number has no depth; figures show it after the last layer.
    """
    rows = [
        {
            "label": label,
            "tensor": tensor.name,
            "sparsity": 1 - tensor.kept / max(tensor.size, 1),
        }
        for label, ticket in tickets.items()
        for tensor in ticket.tensors
    ]
    table = pd.DataFrame(rows, columns=["label", "tensor", "sparsity"])
    parts = {name: _kind_and_depth(name) for name in table.tensor.unique()}
    table["kind"] = [parts[name][0] for name in table.tensor]
    table["depth"] = [parts[name][1] for name in table.tensor]
    return table


def _kind_and_depth(name: str) -> tuple[str, int | None]:
    stem = name.removesuffix(".weight")
    numbered = re.search(r"(?:^|\.)(\d+)\.", stem)
    if numbered is None:
        return stem, None
    return stem[numbered.end() :], int(numbered.group(1))
