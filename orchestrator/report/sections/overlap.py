"""How much tickets share, beside what chance would give, and how they spread over the layers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.data.verdicts import RANDOM
from orchestrator.store.ticket import Ticket, compare

MOST_TICKETS = 12
"""In one heat map: more would not be legible, and a base-size ticket takes 11 MB of memory."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Tickets of one model and sparsity that are compared with one another."""

    model: str
    sparsity: float
    what: Literal["tasks", "chains"]
    """The IMP tickets of different tasks, or the tickets of one task: seeds, rewinds, controls."""
    tickets: pd.DataFrame
    """Rows of `tables.cells` plus a `label`."""


def choose(cells: pd.DataFrame, verdicts: pd.DataFrame) -> list[Choice]:
    """What to compare, for each model (and pool), each ticket once.

    Where several tasks (pre-training too) have IMP tickets, those of the first seed and rewind
    point, at the two levels up to the sparsity that the best winners reach in the middle. And of
    the task with most tickets, all of one level: the best relaxed winner's; where no ticket
    wins, the deepest that has two. A ticket that several cells wear is named after the first.
    """
    found: list[Choice] = []
    worn = cells[cells.ticket != ""]
    for (model, total), group in worn.groupby(["model", "total"], sort=False):
        own = verdicts[(verdicts.model == model) & (verdicts.source == "imp")]
        doubled = any(choice.model == model for choice in found)
        name = f"{model}, {total:,} weights" if doubled else str(model)
        found += [replace(choice, model=name) for choice in _of_tasks(group, own)]
        found += [replace(choice, model=name) for choice in _of_chains(group, own)]
    return found


def _of_tasks(worn: pd.DataFrame, own: pd.DataFrame) -> list[Choice]:
    kind = worn.source.str.split(":").str[0]
    imp = worn[(worn.adversary == "none") & kind.isin(["imp", "transfer"])]
    origin = imp.source.str.removeprefix("transfer:").where(imp.source != "imp", imp.task)
    first = imp.assign(label=origin, lent=imp.source != "imp")
    first = first.sort_values(["rewind", "seed", "lent"], kind="stable")
    first = first.drop_duplicates(["label", "planned_sparsity"]).drop_duplicates("ticket")
    sizes = first.groupby("planned_sparsity").size()
    rich = sorted(sizes[sizes == sizes.max()].index)
    if not rich or sizes.max() < 2 or len(set(imp.task)) < 2:
        return []
    wanted = own.groupby(["task", "metric"]).relaxed.max().median()
    last = len(rich) - 1 if pd.isna(wanted) else int(np.argmin([abs(s - wanted) for s in rich]))
    order = {label: i for i, label in enumerate(dict.fromkeys([*worn.task, *first.label]))}
    choices = []
    for sparsity in rich[max(last - 1, 0) : last + 1]:
        here = first[first.planned_sparsity == sparsity]
        here = here.sort_values("label", key=lambda names: names.map(order)).head(MOST_TICKETS)
        choices.append(Choice("", float(sparsity), "tasks", here))
    return choices


def _of_chains(worn: pd.DataFrame, own: pd.DataFrame) -> list[Choice]:
    tickets = worn[~worn.source.str.startswith("transfer:")].drop_duplicates("ticket")
    distinct = tickets.groupby("task", sort=False).size()
    if distinct.empty:
        return []
    task = distinct.idxmax()
    rank = tickets.source.map(lambda s: 0 if s == "imp" else 2 if s in RANDOM else 1)
    ranked = tickets.assign(rank=rank)[tickets.task == task].sort_values("rank", kind="stable")
    sizes = ranked[ranked["rank"] == 0].groupby("planned_sparsity").size()
    if len(distinct) > 1 and sizes.max() < 2:
        return []  # beside the tickets of other tasks, a task's one chain has nothing to add
    sizes = ranked.groupby("planned_sparsity").size()
    rich = sizes[sizes > 1].index
    if not len(rich):
        return []
    best = own[own.task == task].relaxed.max()
    wanted = rich.max() if pd.isna(best) else min(rich, key=lambda s: abs(s - best))
    at_level = ranked[ranked.planned_sparsity == wanted].head(MOST_TICKETS)
    return [Choice("", float(wanted), "chains", at_level.assign(label=_labels(at_level)))]


def _labels(tickets: pd.DataFrame) -> list[str]:
    """Short names that tell these tickets apart: source, rewind, seed, and what else differs."""
    told = [name for name in ("part", "task", "recipe", "schedule") if tickets[name].nunique() > 1]
    labels = []
    for row in tickets.to_dict("records"):
        name = words.source(row["source"])
        at = "" if row["source"] == "random" else f" {words.theta(row['rewind'])}"
        extra = "".join(f" {row[column]}" for column in told if row[column] != "default")
        labels.append(f"{name}{at}{extra} · s{row['seed']}")
    doubles = pd.Series(labels).duplicated(keep=False)
    shas = tickets.ticket.str[:6]
    return [f"{x} {s}" if d else x for x, s, d in zip(labels, shas, doubles, strict=True)]


def fetch(tickets: pd.DataFrame, fetch_ticket: Callable[[str], Ticket]) -> dict[str, Ticket]:
    """The bits of the chosen tickets, by label."""
    return {row.label: fetch_ticket(row.ticket) for row in tickets.itertuples()}


def overlaps(tickets: Mapping[str, Ticket]) -> pd.DataFrame:
    """One row per pair: Jaccard overlap of the kept weights (VLT, Fig. 8) and its chance levels.

    `chance` is what two tickets of these sizes share when each is drawn over the whole pool,
    d / (2 - d) for equal densities d; `chance_by_layer` when each is drawn layer by layer with the
    counts it has, which matters where tickets favour the same layers.
    """
    pairs = itertools.combinations(tickets.items(), 2)
    rows = [{"a": a, "b": b, **_pair(left, right)} for (a, left), (b, right) in pairs]
    return pd.DataFrame(rows, columns=["a", "b", "jaccard", "chance", "chance_by_layer"])


def _pair(left: Ticket, right: Ticket) -> dict[str, float]:
    both = compare(left, right)
    return {
        "jaccard": both.total.jaccard,
        "chance": both.total.chance,
        "chance_by_layer": both.layerwise_chance,
    }


def layers(tickets: Mapping[str, Ticket]) -> pd.DataFrame:
    """One row per ticket and tensor: `label`, `tensor`, `kind`, `depth`, `sparsity` (0..1).

    The first number in a tensor's name is its depth; the rest of the name, without what all names
    share, is its kind. A tensor without a number stands after the last layer.
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
