"""How the paper's tables are laid out: a column for each task's metric, scores as entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.data.labels import PAPER
from orchestrator.report.data.tables import COLUMN
from orchestrator.report.page.page import Entry, Value

Row = dict[str, Any]


def columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The (task, metric) pairs of a tidy table, in its order."""
    return list(table[COLUMN].drop_duplicates().itertuples(index=False, name=None))


def names(columns: Iterable[tuple[str, str]]) -> list[str]:
    return [words.column(dict(zip(COLUMN, column, strict=True))) for column in columns]


def places(table: pd.DataFrame, *row: str) -> dict[tuple[Any, ...], Row]:
    """The rows of a tidy table by (`row`..., task, metric)."""
    return {
        tuple(record[name] for name in (*row, *COLUMN)): {str(k): v for k, v in record.items()}
        for record in table.to_dict("records")
    }


def score(row: Mapping[str, Any] | None, *, seeds: bool = False, remark: str = "") -> Entry:
    """`69.98 ± 0.05 (3)`, the seeds where asked for; strong if the row's verdict is that it wins;
    beneath it the paper's number (`published_mean`, `published_sd`), where it has one."""
    if row is None:
        return words.MISSING
    text = words.spread(row["mean"], row["sd"], 2)
    if seeds and pd.notna(row["n"]) and row["n"]:
        text += f" ({int(row['n'])})"
    note = ""
    if pd.notna(row["published_mean"]):
        note = f"{PAPER} {words.spread(row['published_mean'], row['published_sd'], 2)}"
    return entry(text + remark, note, strong=words.wins(str(row.get("verdict"))))


def entry(text: str, note: str = "", *, strong: bool = False) -> Entry:
    """Plain text where there is no more to it."""
    return Value(text=text, note=note, strong=strong) if note or strong else text
