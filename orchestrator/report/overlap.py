"""How much tickets share, beside what chance would give, and how they spread over the layers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping

import pandas as pd

from orchestrator.report import words
from orchestrator.report.verdicts import RANDOM
from orchestrator.store.ticket import Ticket, compare

MOST_TICKETS = 10
"""In one heat map: more would not be legible, and a base-size ticket takes 11 MB of memory."""


def choose(cells: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each model (and pool), the distinct tickets of one sparsity, as rows of `cells` plus a
    `label`.

    The sparsity is the best relaxed winner's; where no ticket wins, the deepest that has two
    tickets. IMP tickets come first, then other sources, then the random ones; a ticket that
    several cells wear is named after the first.
    """
    chosen = {}
    worn = cells[cells.ticket != ""]
    for (model, total), group in worn.groupby(["model", "total"], sort=False):
        best = verdicts[(verdicts.model == model) & (verdicts.source == "imp")].relaxed.max()
        rank = group.source.map(lambda s: 0 if s == "imp" else 2 if s in RANDOM else 1)
        ranked = group.assign(rank=rank).sort_values("rank", kind="stable")
        unique = ranked.drop_duplicates("ticket")
        sizes = unique.groupby("planned_sparsity").size()
        rich = sizes[sizes > 1].index
        if not len(rich):
            continue
        wanted = rich.max() if pd.isna(best) else min(rich, key=lambda s: abs(s - best))
        at_level = unique[unique.planned_sparsity == wanted].head(MOST_TICKETS)
        name = model if model not in chosen else f"{model}, {total:,} weights"
        chosen[str(name)] = at_level.assign(label=_labels(at_level))
    return chosen


def _labels(tickets: pd.DataFrame) -> list[str]:
    """Short names that tell these tickets apart: source, rewind, seed, and what else differs."""
    told = [name for name in ("study", "task", "recipe", "schedule") if tickets[name].nunique() > 1]
    labels = []
    for row in tickets.to_dict("records"):
        name = words.source(row["source"])
        at = "" if row["source"] == "random" else f" {words.theta(row['rewind'])}"
        extra = "".join(f" {row[column]}" for column in told)
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
