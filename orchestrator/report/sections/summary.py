"""Summaries for the page: studies, costs, environment, overlaps, and every cell as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import pandas as pd

from orchestrator.plan.graph import DENSE, Plan
from orchestrator.report.data import formatting
from orchestrator.report.data.tables import CURVE_KEY, trial_states
from orchestrator.report.page.page import Table, make_table
from orchestrator.sources.names import main_sources
from orchestrator.store.record import Record

_KINDS = {"train": "training run", "prune": "pruning", "rewind": "rewind point"}
_MAX_VALUES = 4
_MAX_NAMES = 8


def facts(
    plan: Plan,
    records: Mapping[str, Record],
    failed: Collection[str],
    verdicts: pd.DataFrame,
    skipped: Collection[str] = (),
) -> list[tuple[str, str]]:
    """Return the numbers shown under the title, with their descriptions."""
    state = trial_states(plan, records, failed, skipped)
    trials = Counter(state.values())
    cells = Counter(state[cell.trial] for cell in plan.cells)
    seconds = sum(_seconds(records[trial.key]) for trial in plan if trial.key in records)
    facts = [
        (f"{trials['done']} of {len(plan)}", "trials done"),
        (f"{cells['done']} of {len(plan.cells)}", "cells with a score"),
    ]
    for name in ("missing", "failed", "blocked"):
        if trials[name]:
            facts.append((str(trials[name]), f"trials {name}"))
    if trials["skipped"]:
        facts.append((str(trials["skipped"]), "trials skipped: not needed"))
    found = verdicts[verdicts.source.isin(main_sources(verdicts.source))]
    if found.groupby(["model", "task"]).ngroups == 1 and found.relaxed.notna().any():
        facts.append(
            (formatting.percent(found.relaxed.max()), "sparsity of the best relaxed winner")
        )
    return [*facts, (formatting.duration(seconds), "spent in trials")]


def cost_table(plan: Plan, records: Mapping[str, Record]) -> Table:
    """Return the time by kind of trial; pruning within a training run costs next to nothing."""
    rows = []
    for kind, name in _KINDS.items():
        planned = [trial.key for trial in plan if trial.kind == kind]
        done = [records[key] for key in planned if key in records]
        if not planned:
            continue
        seconds = pd.Series([_seconds(record) for record in done], dtype=float)
        size = sum(record.ticket.bytes for record in done if record.ticket and kind == "prune")
        size += sum(record.weights.bytes for record in done if record.weights)
        rows.append(
            (
                name,
                f"{len(done)} of {len(planned)}",
                *(formatting.duration(value) for value in (seconds.median(), seconds.max())),
                formatting.duration(float(seconds.sum())),
                f"{size / 1e6:.2f} MB" if size else formatting.MISSING,
            )
        )
    header = ("kind of trial", "done", "median time", "longest", "total time", "stored")
    return make_table(header, rows, 1)


def _seconds(record: Record) -> float:
    return record.costs.get("seconds", 0.0)


def environment_values(records: Mapping[str, Record]) -> list[tuple[str, str]]:
    """Return each entry of the records' environments with its values, most common first."""
    counts_by_name: dict[str, Counter[str]] = {}
    for record in records.values():
        for name, value in record.environment.items():
            counts_by_name.setdefault(name, Counter())[value] += 1
    return [(name, _values(counts)) for name, counts in sorted(counts_by_name.items())]


def _values(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    listed = [f"{value} ({n} trials)" for value, n in counts.most_common(_MAX_VALUES)]
    more = len(counts) - len(listed)
    return "; ".join(listed) + (f"; {more} more" if more > 0 else "")


def overlap_table(overlaps: pd.DataFrame) -> Table:
    """Return one row per pair of tickets."""
    header = ("model", "ticket", "ticket", "sparsity", "overlap", "chance", "chance by layer")
    rows = [
        (
            row["model"],
            row["a"],
            row["b"],
            formatting.percent(row["sparsity"]),
            *(formatting.number(row[name], 3) for name in ("jaccard", "chance", "chance_by_layer")),
        )
        for row in overlaps.to_dict("records")
    ]
    return make_table(header, rows, 3)


def study_table(cells: pd.DataFrame, verdicts: pd.DataFrame) -> Table:
    """Return one row per study: its contents, its progress, and its sparsest relaxed winner."""
    best_of = verdicts.set_index(CURVE_KEY).relaxed
    rows = []
    for study, group in cells.groupby("study", sort=False):
        runs = group.drop_duplicates(["trial", "source", "level", "schedule", "rewind"])
        state = runs.state.value_counts()
        failed = int(state.get("failed", 0) + state.get("blocked", 0))
        curves = pd.MultiIndex.from_frame(group[CURVE_KEY].drop_duplicates())
        won = best_of[best_of.index.isin(curves)].dropna()
        tickets = group.source[group.source != DENSE].map(formatting.source_name).unique()
        rows.append(
            (
                str(study),
                _listed(group.model.unique()),
                _listed(group.task.unique()),
                _listed(tickets),
                str(len(runs)),
                str(int(runs.score.notna().sum())),
                str(failed) if failed else formatting.MISSING,
                _best(won),
            )
        )
    header = (
        "study",
        "models",
        "tasks",
        "tickets",
        "cells",
        "scored",
        "failed or blocked",
        "best winner",
    )
    return make_table(header, rows, 4)


def _listed(names: Iterable[str]) -> str:
    several = list(names)
    more = len(several) - _MAX_NAMES
    listed = ", ".join(several[:_MAX_NAMES]) or formatting.MISSING
    return f"{listed} and {more} more" if more > 0 else listed


def _best(won: pd.Series) -> str:
    if won.empty:
        return formatting.MISSING
    curve = dict(zip(CURVE_KEY, won.idxmax(), strict=True))
    name = formatting.curve_label(curve["source"], curve["rewind"])
    return f"{formatting.percent(won.max())} ({name}, {formatting.column_name(curve)})"


def cell_table(cells: pd.DataFrame) -> Table:
    """Return one row per cell and metric."""
    header: Sequence[str] = (
        "study", "model", "task", "metric", "recipe", "schedule", "tickets", "seed", "level",
        "sparsity", "score", "best", "last", "prior", "kept", "seconds", "state", "trial",
    )  # fmt: skip
    return make_table(header, [_cell_row(row) for row in cells.to_dict("records")], 7)


def _cell_row(row: dict[str, object]) -> tuple[str, ...]:
    sparsity, kept = float(str(row["sparsity"])), row["kept"]
    return (
        *(
            str(row[column])
            for column in ("study", "model", "task", "metric", "recipe", "schedule")
        ),
        formatting.curve_label(str(row["source"]), int(str(row["rewind"]))),
        str(row["seed"]),
        str(row["level"]),
        f"{100 * sparsity:.3f} %",
        *(_number(row[column], 2) for column in ("score", "best", "last", "prior")),
        formatting.MISSING if pd.isna(kept) else f"{int(str(kept)):,}",
        _number(row["seconds"], 1),
        str(row["state"]),
        str(row["trial"])[:12],
    )


def _number(value: object, digits: int) -> str:
    return formatting.number(float(value) if isinstance(value, float) else math.nan, digits)
