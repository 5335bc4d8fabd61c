"""The parts of the page that count: what ran, what it cost, where, and every cell as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import pandas as pd

from orchestrator.plan.graph import DENSE, Plan
from orchestrator.report.data import labels as words
from orchestrator.report.data.tables import CURVE, states
from orchestrator.report.page.page import Table, words_first
from orchestrator.store.record import Record

_KINDS = {"train": "training run", "cut": "cut", "rewind": "rewind point"}
_MOST_VALUES = 4
_MOST_NAMES = 8


def facts(
    plan: Plan, records: Mapping[str, Record], failed: Collection[str], verdicts: pd.DataFrame
) -> list[tuple[str, str]]:
    """The numbers under the title."""
    state = states(plan, records, failed)
    trials = Counter(state.values())
    cells = Counter(state[cell.trial] for cell in plan.cells)
    seconds = sum(_seconds(records[trial.key]) for trial in plan if trial.key in records)
    found = [
        (f"{trials['done']} of {len(plan)}", "trials done"),
        (f"{cells['done']} of {len(plan.cells)}", "cells with a score"),
    ]
    for name in ("missing", "failed", "blocked"):
        if trials[name]:
            found.append((str(trials[name]), f"trials {name}"))
    own = verdicts[verdicts.source == "imp"]
    if own.groupby(["model", "task"]).ngroups == 1 and own.relaxed.notna().any():
        found.append((words.percent(own.relaxed.max()), "sparsity of the best relaxed winner"))
    return [*found, (words.duration(seconds), "spent in trials")]


def cost_table(plan: Plan, records: Mapping[str, Record]) -> Table:
    """Seconds by kind of trial; a cut that rode a training run cost next to nothing by itself."""
    rows = []
    for kind, name in _KINDS.items():
        planned = [trial.key for trial in plan if trial.kind == kind]
        done = [records[key] for key in planned if key in records]
        if not planned:
            continue
        seconds = pd.Series([_seconds(record) for record in done], dtype=float)
        size = sum(record.ticket.bytes for record in done if record.ticket and kind == "cut")
        size += sum(record.weights.bytes for record in done if record.weights)
        rows.append(
            (
                name,
                f"{len(done)} of {len(planned)}",
                *(words.duration(value) for value in (seconds.median(), seconds.max())),
                words.duration(float(seconds.sum())),
                f"{size / 1e6:.2f} MB" if size else words.MISSING,
            )
        )
    header = ("kind of trial", "done", "median time", "longest", "in all", "stored")
    return words_first(header, rows, 1)


def _seconds(record: Record) -> float:
    return record.costs.get("seconds", 0.0)


def environment(records: Mapping[str, Record]) -> list[tuple[str, str]]:
    """Each entry of the records' environments with its values, the commonest first."""
    seen: dict[str, Counter[str]] = {}
    for record in records.values():
        for name, value in record.environment.items():
            seen.setdefault(name, Counter())[value] += 1
    return [(name, _values(counts)) for name, counts in sorted(seen.items())]


def _values(counts: Counter[str]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{value} ({n} trials)" for value, n in counts.most_common(_MOST_VALUES)]
    more = len(counts) - len(shown)
    return "; ".join(shown) + (f"; {more} more" if more > 0 else "")


def overlap_table(overlaps: pd.DataFrame) -> Table:
    header = ("model", "ticket", "ticket", "sparsity", "overlap", "chance", "chance by layer")
    rows = [
        (
            row["model"],
            row["a"],
            row["b"],
            words.percent(row["sparsity"]),
            *(words.number(row[name], 3) for name in ("jaccard", "chance", "chance_by_layer")),
        )
        for row in overlaps.to_dict("records")
    ]
    return words_first(header, rows, 3)


def study_table(cells: pd.DataFrame, verdicts: pd.DataFrame) -> Table:
    """One row per study: what it asks for, how far it is, and the sparsest relaxed winner among
    its curves."""
    best_of = verdicts.set_index(CURVE).relaxed
    rows = []
    for study, asked in cells.groupby("study", sort=False):
        own = asked.drop_duplicates(["trial", "source", "level", "schedule", "rewind"])
        state = own.state.value_counts()
        stuck = int(state.get("failed", 0) + state.get("blocked", 0))
        curves = pd.MultiIndex.from_frame(asked[CURVE].drop_duplicates())
        won = best_of[best_of.index.isin(curves)].dropna()
        tickets = asked.source[asked.source != DENSE].map(words.source).unique()
        rows.append(
            (
                str(study),
                _listed(asked.model.unique()),
                _listed(asked.task.unique()),
                _listed(tickets),
                str(len(own)),
                str(int(own.score.notna().sum())),
                str(stuck) if stuck else words.MISSING,
                _best(won),
            )
        )
    header = ("study", "models", "tasks", "tickets", "cells", "scored", "stuck", "best winner")
    return words_first(header, rows, 4)


def _listed(names: Iterable[str]) -> str:
    several = list(names)
    more = len(several) - _MOST_NAMES
    shown = ", ".join(several[:_MOST_NAMES]) or words.MISSING
    return f"{shown} and {more} more" if more > 0 else shown


def _best(won: pd.Series) -> str:
    if won.empty:
        return words.MISSING
    curve = dict(zip(CURVE, won.idxmax(), strict=True))
    name = words.line(curve["source"], curve["rewind"])
    return f"{words.percent(won.max())} ({name}, {words.column(curve)})"


def cell_table(cells: pd.DataFrame) -> Table:
    header: Sequence[str] = (
        "study", "model", "task", "metric", "recipe", "schedule", "tickets", "seed", "level",
        "sparsity", "score", "best", "last", "prior", "kept", "seconds", "state", "trial",
    )  # fmt: skip
    return words_first(header, [_cell_row(row) for row in cells.to_dict("records")], 7)


def _cell_row(row: dict[str, object]) -> tuple[str, ...]:
    sparsity, kept = float(str(row["sparsity"])), row["kept"]
    name = str(row["source"])
    return (
        *(
            str(row[column])
            for column in ("study", "model", "task", "metric", "recipe", "schedule")
        ),
        name if name == "dense" else words.line(name, int(str(row["rewind"]))),
        str(row["seed"]),
        str(row["level"]),
        f"{100 * sparsity:.3f} %",
        *(_number(row[column], 2) for column in ("score", "best", "last", "prior")),
        words.MISSING if pd.isna(kept) else f"{int(str(kept)):,}",
        _number(row["seconds"], 1),
        str(row["state"]),
        str(row["trial"])[:12],
    )


def _number(value: object, digits: int) -> str:
    return words.number(float(value) if isinstance(value, float) else math.nan, digits)
