"""Tickets of every task applied to every other task: the matrix of VLT's Figures 3 and 6."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchestrator.report.data import formatting, sources
from orchestrator.report.data.tables import SCORE_KEY, DenseNetworks, Labels
from orchestrator.report.data.verdicts import level_verdict
from orchestrator.report.page import layout
from orchestrator.report.page.layout import Row
from orchestrator.report.page.page import Table, TableEntry
from orchestrator.sources.names import find_source
from orchestrator.sweep.config import Win

MATRIX_KEY = ["model", "recipe", "schedule", "rewind", "variant"]
"""Columns that identify a matrix."""
_KEPT = ["mean", "sd", "n", "planned"]
_SCORES = [*_KEPT, "of_dense", "of_own", "verdict"]
_COLUMNS = [*MATRIX_KEY, "level", "sparsity", "ticket", *SCORE_KEY, *_SCORES]


def transfer_scores(
    levels: pd.DataFrame, networks: DenseNetworks, rule: Win, labels: Labels
) -> pd.DataFrame:
    """Return one row per matrix, level, ticket and target column of the sweep.

    Only standard training counts, and only tasks that receive tickets of other tasks. `ticket` is
    the task whose ticket is applied (the target, another task, or pre-training), or the source of a
    control whose tickets belong to no task (`random`). `of_dense` and `of_own` are the score in
    percent of the dense network's score and of the score of the target's own ticket.
    """
    transferred = sources.is_transferred(levels.source)
    applied = sources.applied_sources(levels.source[transferred])
    own, control = levels.source.isin(applied), is_control(levels.source)
    rows = levels[(levels.adversary == "none") & (transferred | own | control)]
    rows = rows.assign(ticket=sources.ticket_origins(rows).where(~control, rows.source))
    transferred = transferred[rows.index] & ~rows.ticket.map(labels.is_pretraining).astype(bool)
    selected = transferred.groupby([rows[name] for name in MATRIX_KEY]).transform("any")
    results: list[dict[str, Any]] = []
    for key, column in rows[selected].groupby([*MATRIX_KEY, *SCORE_KEY], sort=False):
        named = dict(zip([*MATRIX_KEY, *SCORE_KEY], key, strict=True))
        if (is_control(column.source) | (column.ticket == named["task"])).all():
            continue  # this task receives no ticket of another task
        network = networks.find(column.iloc[0])
        own_ticket = column[column.source.isin(applied)].drop_duplicates("level")
        own_scores = own_ticket.set_index("level")["mean"]
        for _, row in column.iterrows():
            results.append(
                {
                    **named,
                    "level": row.level,
                    "sparsity": row.planned_sparsity,
                    "ticket": row.ticket,
                    **{name: row[name] for name in _KEPT},
                    "of_dense": None if network is None else _share(row["mean"], network["mean"]),
                    "of_own": _share(row["mean"], own_scores.get(row.level)),
                    "verdict": level_verdict(row, network, rule),
                }
            )
    return pd.DataFrame(results, columns=_COLUMNS).astype({"of_dense": float, "of_own": float})


def is_control(sources_or_tickets: pd.Series) -> pd.Series:
    """Return whether each row of a matrix shows a control, whose tickets belong to no task."""
    return sources.where(sources_or_tickets, lambda entry: entry.is_comparison and entry.data_free)


def _share(mean: float, of: float | None) -> float | None:
    return 100 * mean / of if of is not None and of > 0 else None


def ticket_order(matrix: pd.DataFrame, labels: Labels) -> list[str]:
    """Return the rows of a matrix: tasks in the order of its columns, pre-training, controls."""
    targets = list(matrix.task.unique())
    controls = set(matrix.ticket[is_control(matrix.ticket)])

    def rank(ticket: str) -> int:
        if ticket in targets:
            return targets.index(ticket)
        return len(targets) + (2 if ticket in controls else int(labels.is_pretraining(ticket)))

    return sorted(matrix.ticket.unique(), key=rank)


def ticket_name(ticket: str) -> str:
    """Return the name of a row: the task, or the control's name in tables."""
    entry = find_source(ticket).entry
    return entry.label if entry.is_comparison and entry.data_free else ticket


def choose_level(matrix: pd.DataFrame, verdicts: pd.DataFrame) -> int:
    """Return the level that the large heat map shows.

    Of the levels with the most scores, it is the closest to the median sparsity at which the tasks'
    own tickets win (70 % if none wins).
    """
    scored = matrix[matrix.n > 0].groupby("level").size()
    fullest = scored[scored == scored.max()].index
    own = verdicts.source == sources.reference_source(verdicts.source)
    median = verdicts[own & (verdicts.model == matrix.model.iloc[0])].relaxed.median()
    target = 0.7 if pd.isna(median) else median
    sparsity = matrix.drop_duplicates("level").set_index("level").sparsity[fullest]
    return int((sparsity - target).abs().idxmin())


def score_table(matrix: pd.DataFrame, level: int, labels: Labels) -> Table:
    """Return the scores of one level: a row per ticket, a column per target and metric.

    Below each score is its share of the score of the target's own ticket.
    """
    at_level = matrix[matrix.level == level]
    columns = layout.score_columns(matrix)
    by_key = layout.rows_by_key(at_level, "ticket")
    body: list[list[TableEntry]] = [
        [ticket_name(ticket), *(_entry(by_key.get((ticket, *column))) for column in columns)]
        for ticket in ticket_order(matrix, labels)
    ]
    sparsity = formatting.percent(at_level.sparsity.iloc[0])
    caption = f"{formatting.table_caption(matrix.iloc[0].to_dict())}, {sparsity} sparsity"
    return Table(header=["ticket of", *layout.column_names(columns)], rows=body, caption=caption)


def _entry(row: Row | None) -> TableEntry:
    if row is None or pd.isna(row["mean"]):
        return formatting.MISSING
    note = "" if pd.isna(row["of_own"]) else f"{row['of_own']:.1f} % of own"
    text = formatting.mean_sd(row["mean"], row["sd"], 2)
    own_ticket = row["ticket"] == row["task"]
    return layout.table_entry(
        text, "own" if own_ticket else note, strong=formatting.is_winning(row["verdict"])
    )
