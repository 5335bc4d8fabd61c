"""Found tickets from several rewind points in one table: the data of VLT's Figure 2(i)."""

from __future__ import annotations

import pandas as pd

from orchestrator.report.data import formatting, sources
from orchestrator.report.data.tables import PROBLEM_KEY
from orchestrator.report.page.page import Table

_TABLE_KEY = [*PROBLEM_KEY, "schedule", "variant"]


def tables(levels: pd.DataFrame) -> list[Table]:
    """Return one table per problem and source of found tickets that has several theta_i: theta_i
    down, sparsity across."""
    found = rewound(levels)
    several = found.source.nunique() > 1
    formatted = []
    for key, rows in found.groupby([*_TABLE_KEY, "source"], sort=False):
        named = dict(zip([*_TABLE_KEY, "source"], key, strict=True))
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
        caption += f", {formatting.source_name(named['source'])}" if several else ""
        formatted.append(Table(header=header, rows=body, caption=caption))
    return formatted


def rewound(levels: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of found tickets that start from several theta_i."""
    found = levels[sources.is_main(levels.source)]
    rewinds = found.groupby([*_TABLE_KEY, "source"]).rewind.transform("nunique")
    return found[rewinds > 1]


def _score(by_key: dict[tuple[int, int], dict[str, float]], rewind: int, level: int) -> str:
    row = by_key.get((rewind, level))
    return formatting.MISSING if row is None else formatting.mean_sd(row["mean"], row["sd"], 2)
