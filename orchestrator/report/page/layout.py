"""Lay out tables as the paper does: one column per task and metric, scores as entries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from orchestrator.report.data import formatting
from orchestrator.report.data.formatting import PAPER
from orchestrator.report.data.tables import SCORE_KEY
from orchestrator.report.page.page import RichText, TableEntry

Row = dict[str, Any]


def score_columns(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return the (task, metric) pairs of a tidy table, in its order."""
    return list(table[SCORE_KEY].drop_duplicates().itertuples(index=False, name=None))


def column_names(columns: Iterable[tuple[str, str]]) -> list[str]:
    """Return the headers of (task, metric) pairs."""
    return [formatting.column_name(dict(zip(SCORE_KEY, column, strict=True))) for column in columns]


def rows_by_key(table: pd.DataFrame, *keys: str) -> dict[tuple[Any, ...], Row]:
    """Index the rows of a tidy table by the columns (`keys`..., task, metric)."""
    return {
        tuple(record[name] for name in (*keys, *SCORE_KEY)): {str(k): v for k, v in record.items()}
        for record in table.to_dict("records")
    }


def score_entry(
    row: Mapping[str, Any] | None, *, seeds: bool = False, remark: str = ""
) -> TableEntry:
    """Format a score as `69.98 ± 0.05`, with the number of seeds in parentheses if `seeds`.

    It is bold if the row's verdict is a win. The paper's number (`published_mean`,
    `published_sd`) goes below it if there is one.
    """
    if row is None:
        return formatting.MISSING
    text = formatting.mean_sd(row["mean"], row["sd"], 2)
    if seeds and pd.notna(row["n"]) and row["n"]:
        text += f" ({int(row['n'])})"
    note = ""
    if pd.notna(row["published_mean"]):
        note = f"{PAPER} {formatting.mean_sd(row['published_mean'], row['published_sd'], 2)}"
    return table_entry(text + remark, note, strong=formatting.is_winning(str(row.get("verdict"))))


def table_entry(text: str, note: str = "", *, strong: bool = False) -> TableEntry:
    """Return plain text if it has neither a note nor emphasis."""
    return RichText(text=text, note=note, strong=strong) if note or strong else text
