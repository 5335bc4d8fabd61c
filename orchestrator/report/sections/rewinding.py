"""IMP from several rewind points, side by side: VLT's Figure 2(i) as a table."""

from __future__ import annotations

import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.data.tables import PROBLEM
from orchestrator.report.page.page import Table

_TABLE = [*PROBLEM, "schedule", "part"]


def tables(levels: pd.DataFrame) -> list[Table]:
    """One table per problem with IMP from more than one theta_i: theta_i down, sparsity across."""
    found = []
    for key, rows in levels[levels.source == "imp"].groupby(_TABLE, sort=False):
        if rows.rewind.nunique() == 1:
            continue
        named = dict(zip(_TABLE, key, strict=True))
        sparsities = rows.drop_duplicates("level").set_index("level").planned_sparsity.sort_index()
        places = {(row["rewind"], row["level"]): row for row in rows.to_dict("records")}
        body = [
            [words.theta(rewind), *(_score(places, rewind, level) for level in sparsities.index)]
            for rewind in sorted(rows.rewind.unique())
        ]
        header = ["from", *(words.percent(share) for share in sparsities)]
        caption = f"{words.column(named)}: {words.caption(named)}"
        found.append(Table(header=header, rows=body, caption=caption))
    return found


def _score(places: dict[tuple[int, int], dict[str, float]], rewind: int, level: int) -> str:
    row = places.get((rewind, level))
    return words.MISSING if row is None else words.spread(row["mean"], row["sd"], 2)
