"""Tidy tables from a plan and its records: one row per cell, one row per level over the seeds.

A cell without a record stays in every table, as `missing`, `failed` or `blocked`: a partial sweep
must look partial.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Literal, TypeAlias

import pandas as pd

from orchestrator.plan import DENSE, Cell, Plan
from orchestrator.store.record import Record

State: TypeAlias = Literal["done", "failed", "blocked", "missing"]

PROBLEM = ["study", "model", "task", "recipe"]
"""Columns that say which dense network a ticket is measured against."""
CURVE = [*PROBLEM, "schedule", "rewind", "source"]
"""Columns that say which line of a figure a cell belongs to, seeds aside."""


def states(plan: Plan, records: Mapping[str, Record], failed: Collection[str]) -> dict[str, State]:
    """The state of every trial; `blocked` if a trial that it needs failed and it is not done."""
    found: dict[str, State] = {}
    for trial in plan:
        needs = (*trial.parents, *([trial.rides] if trial.rides else []))
        if trial.key in records:
            found[trial.key] = "done"
        elif trial.key in failed:
            found[trial.key] = "failed"
        elif any(found.get(need) in ("failed", "blocked") for need in needs):
            found[trial.key] = "blocked"
        else:
            found[trial.key] = "missing"
    return found


def cells(plan: Plan, records: Mapping[str, Record], failed: Collection[str] = ()) -> pd.DataFrame:
    """One row per cell of the plan, in its order. Scores are in percent, sparsities in 0..1.

    `sparsity` is exact (1 - kept / total) where the ticket exists, else as planned.
    """
    state = states(plan, records, failed)
    rows = [_cell_row(cell, records, state[cell.trial]) for cell in plan.cells]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


_COLUMNS = {
    **dict.fromkeys(("study", "model", "task", "recipe", "schedule"), "str"),
    "rewind": "int64",
    "source": "str",
    "seed": "int64",
    "level": "int64",
    "planned_sparsity": "float64",
    "sparsity": "float64",
    **dict.fromkeys(("score", "best", "last", "prior", "seconds"), "float64"),
    **dict.fromkeys(("kept", "total"), "Int64"),
    **dict.fromkeys(("state", "trial", "ticket"), "str"),
}


def _cell_row(cell: Cell, records: Mapping[str, Record], state: State) -> dict[str, object]:
    record = records.get(cell.trial)
    cut = records.get(cell.ticket)
    ticket = (record and record.ticket) or (cut and cut.ticket)
    scores = record.scores if record else {}
    exact = 1 - ticket.kept / ticket.total if ticket and ticket.total else cell.sparsity
    return {
        **asdict(cell.curve),
        "level": cell.level,
        "planned_sparsity": cell.sparsity,
        "sparsity": exact,
        **{name: scores.get(name) for name in ("score", "best", "last", "prior")},
        "seconds": record.costs.get("seconds") if record else None,
        "kept": ticket.kept if ticket else None,
        "total": ticket.total if ticket else None,
        "state": state,
        "trial": cell.trial,
        "ticket": ticket.sha256 if ticket else "",
    }


_OVER_SEEDS = {
    "planned_sparsity": ("planned_sparsity", "first"),
    "sparsity": ("sparsity", "mean"),
    "mean": ("score", "mean"),
    "sd": ("score", "std"),
    "min": ("score", "min"),
    "max": ("score", "max"),
    "n": ("score", "count"),
    "planned": ("score", "size"),
    "prior": ("prior", "mean"),
}


def levels(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per curve and level over its seeds, dense runs left out.

    `sd` is the sample standard deviation (n - 1), missing for one seed; `n` of `planned` seeds
    have a score.
    """
    tickets = cells[cells.source != DENSE]
    by_level = tickets.groupby([*CURVE, "level"], sort=False).agg(**_OVER_SEEDS)
    return by_level.reset_index().sort_values([*CURVE, "level"], ignore_index=True)


def dense(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per (study, model, task, recipe): its dense runs over the seeds, each run once.

    Where a study has no cell with the source `dense`, level 0 of its curves stands in.
    """
    frames = []
    for _, group in cells.groupby(PROBLEM, sort=False):
        own = group[group.source == DENSE]
        runs = own if len(own) else group[group.level == 0]
        frames.append(runs.drop_duplicates("trial"))
    runs = pd.concat(frames) if frames else cells
    return runs.groupby(PROBLEM, sort=False).agg(**_OVER_SEEDS).reset_index()
