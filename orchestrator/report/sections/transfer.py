"""Tickets of every task worn on every other: the matrix behind VLT's Figures 3 and 6."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.data.tables import COLUMN, Labels, Networks
from orchestrator.report.data.verdicts import judge
from orchestrator.report.page import layout
from orchestrator.report.page.layout import Row
from orchestrator.report.page.page import Entry, Table
from orchestrator.sweep.config import Win

MATRIX = ["model", "recipe", "schedule", "rewind", "part"]
"""What has a matrix of its own."""
RANDOM_ROW = "random"
_KEPT = ["mean", "sd", "n", "planned"]
_SCORES = [*_KEPT, "of_dense", "of_own", "verdict"]
_COLUMNS = [*MATRIX, "level", "sparsity", "ticket", *COLUMN, *_SCORES]


def transfer(levels: pd.DataFrame, networks: Networks, rule: Win, labels: Labels) -> pd.DataFrame:
    """One row per matrix, level, ticket and target column that the sweep asks for; standard
    training only, and only where tasks lend each other tickets.

    `ticket` is the task whose IMP ticket it is (the target's own, another's, or pre-training), or
    `random`. `of_dense` and `of_own` are the score in percent of the dense network's and of the
    target's own ticket's.
    """
    kind = levels.source.str.split(":").str[0]
    rows = levels[(levels.adversary == "none") & kind.isin(["imp", "random", "transfer"])]
    rows = rows.assign(ticket=rows.source.str.removeprefix("transfer:"))
    rows.loc[rows.source == "imp", "ticket"] = rows.task
    lent = rows.source.str.startswith("transfer:") & ~rows.ticket.map(labels.pretraining).astype(
        bool
    )
    wanted = lent.groupby([rows[name] for name in MATRIX]).transform("any")
    found: list[dict[str, Any]] = []
    for key, column in rows[wanted].groupby([*MATRIX, *COLUMN], sort=False):
        named = dict(zip([*MATRIX, *COLUMN], key, strict=True))
        if column.ticket.isin([RANDOM_ROW, named["task"]]).all():
            continue  # nobody lends this task a ticket
        network = networks.of(column.iloc[0])
        own = column[column.source == "imp"].drop_duplicates("level").set_index("level")["mean"]
        for _, row in column.iterrows():
            found.append(
                {
                    **named,
                    "level": row.level,
                    "sparsity": row.planned_sparsity,
                    "ticket": row.ticket,
                    **{name: row[name] for name in _KEPT},
                    "of_dense": None if network is None else _share(row["mean"], network["mean"]),
                    "of_own": _share(row["mean"], own.get(row.level)),
                    "verdict": judge(row, network, rule),
                }
            )
    return pd.DataFrame(found, columns=_COLUMNS).astype({"of_dense": float, "of_own": float})


def _share(mean: float, of: float | None) -> float | None:
    return 100 * mean / of if of is not None and of > 0 else None


def tickets(matrix: pd.DataFrame, labels: Labels) -> list[str]:
    """The rows of a matrix: the tasks in the order of its columns, pre-training, random."""
    targets = list(matrix.task.unique())

    def rank(ticket: str) -> int:
        if ticket in targets:
            return targets.index(ticket)
        return len(targets) + (2 if ticket == RANDOM_ROW else int(labels.pretraining(ticket)))

    return sorted(matrix.ticket.unique(), key=rank)


def chosen_level(matrix: pd.DataFrame, verdicts: pd.DataFrame) -> int:
    """The level that the large heat map shows: of those with most scores, the one next to the
    sparsity that the tasks' own tickets reach in the middle (or 70 %, where none wins)."""
    scored = matrix[matrix.n > 0].groupby("level").size()
    fullest = scored[scored == scored.max()].index
    own = verdicts[(verdicts.source == "imp") & (verdicts.model == matrix.model.iloc[0])]
    middle = own.relaxed.median()
    wanted = 0.7 if pd.isna(middle) else middle
    sparsity = matrix.drop_duplicates("level").set_index("level").sparsity[fullest]
    return int((sparsity - wanted).abs().idxmin())


def table(matrix: pd.DataFrame, level: int, labels: Labels) -> Table:
    """Scores of one level: rows are tickets, columns the targets' metrics; beneath each score, its
    share of the score of the target's own ticket."""
    at_level = matrix[matrix.level == level]
    columns = layout.columns(matrix)
    by_place = layout.places(at_level, "ticket")
    body: list[list[Entry]] = [
        [ticket, *(_entry(by_place.get((ticket, *column))) for column in columns)]
        for ticket in tickets(matrix, labels)
    ]
    sparsity = words.percent(at_level.sparsity.iloc[0])
    caption = f"{words.caption(matrix.iloc[0].to_dict())}, {sparsity} sparsity"
    return Table(header=["ticket of", *layout.names(columns)], rows=body, caption=caption)


def _entry(row: Row | None) -> Entry:
    if row is None or pd.isna(row["mean"]):
        return words.MISSING
    note = "" if pd.isna(row["of_own"]) else f"{row['of_own']:.1f} % of own"
    text = words.spread(row["mean"], row["sd"], 2)
    own = row["ticket"] == row["task"]
    return layout.entry(text, "own" if own else note, strong=words.wins(row["verdict"]))
