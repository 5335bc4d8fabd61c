"""IMP from several rewind points in one table: the data of VLT's Figure 2(i)."""

from __future__ import annotations

import pandas as pd

from orchestrator.report.data import formatting
from orchestrator.report.data.tables import PROBLEM_KEY
from orchestrator.report.page.page import Table

_TABLE_KEY = [*PROBLEM_KEY, "schedule", "variant"]


def tables(levels: pd.DataFrame) -> list[Table]:
    """Return one table per problem with IMP from several theta_i: theta_i down, sparsity across."""
    formatted = []
    for key, rows in levels[levels.source == "imp"].groupby(_TABLE_KEY, sort=False):
        if rows.rewind.nunique() == 1:
            continue
        named = dict(zip(_TABLE_KEY, key, strict=True))
        sparsities = rows.drop_duplicates("level").set_index("level").planned_sparsity.sort_index()
        by_key = {(row["rewind"], row["level"]): row for row in rows.to_dict("records")}
        body = [
            [
                formatting.theta(rewind),
                *(_score(by_key, rewind, level) for level in sparsities.index),
            ]
            for rewind in sorted(rows.rewind.unique())
        ]
        header = ["from", *(formatting.percent(share) for share in sparsities)]
        caption = f"{formatting.column_name(named)}: {formatting.table_caption(named)}"
        formatted.append(Table(header=header, rows=body, caption=caption))
    return formatted


def _score(by_key: dict[tuple[int, int], dict[str, float]], rewind: int, level: int) -> str:
    row = by_key.get((rewind, level))
    return formatting.MISSING if row is None else formatting.mean_sd(row["mean"], row["sd"], 2)
