"""Tickets from pre-training, applied to every task: VLT's Table 2."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchestrator.plan.graph import DENSE
from orchestrator.report.data import formatting, sources
from orchestrator.report.data.formatting import PAPER
from orchestrator.report.data.tables import SCORE_KEY, DenseNetworks, Labels
from orchestrator.report.data.verdicts import level_verdict
from orchestrator.report.page import layout
from orchestrator.report.page.page import Table, TableEntry
from orchestrator.sweep.config import Win

_TABLE_KEY = ["model", "recipe", "schedule", "rewind", "ticket", "variant"]
_KEPT = ["adversary", "mean", "sd", "n", "planned"]
_COLUMNS = [*_TABLE_KEY, *SCORE_KEY, "source", "level", "sparsity", *_KEPT, "drop", "verdict"]


def universal_scores(
    levels: pd.DataFrame, networks: DenseNetworks, rule: Win, labels: Labels
) -> pd.DataFrame:
    """Return one row per table, level and column, for standard training only.

    The dense scores are level 0. `ticket` is the pre-training task. `drop` is the loss relative to
    the dense score, in percent.
    """
    origin = sources.ticket_origins(levels)
    selected = sources.is_transferred(levels.source) & (levels.adversary == "none")
    selected &= origin.map(labels.is_pretraining).astype(bool)
    rows: list[dict[str, Any]] = []
    chosen = levels.assign(ticket=origin)[selected]
    for key, curve in chosen.groupby([*_TABLE_KEY, *SCORE_KEY], sort=False):
        named = dict(zip([*_TABLE_KEY, *SCORE_KEY], key, strict=True))
        network = networks.find(curve.iloc[0])
        if network is not None:
            kept = {name: network[name] for name in _KEPT}
            position = {"source": DENSE, "level": 0, "sparsity": 0.0, "verdict": ""}
            rows.append({**named, **position, **kept})
        for _, row in curve.iterrows():
            kept = {name: row[name] for name in _KEPT}
            position = {"source": row.source, "level": row.level, "sparsity": row.planned_sparsity}
            drop = relative_drop(row["mean"], network)
            verdict = level_verdict(row, network, rule)
            rows.append({**named, **position, **kept, "drop": drop, "verdict": verdict})
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"drop": float})


def relative_drop(mean: float, network: pd.Series | None) -> float | None:
    """Return the loss relative to the dense score, in percent, as in VLT's Table 2."""
    if network is None or not network["mean"] > 0:
        return None
    return float(100 * (network["mean"] - mean) / network["mean"])


def average_drops(universal: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Return one row per table and level: the unweighted mean of `drop` over all columns.

    Image and text retrieval count as two columns. `drop_without_vcr` is the same without VCR. A
    mean is missing until every column has its score. VLT's Table 2 averages in this way: its eight
    averages follow from its scores.
    """
    rows = []
    for key, table in universal.groupby(_TABLE_KEY, sort=False):
        drops = table[table.level > 0].pivot(index="level", columns=SCORE_KEY, values="drop")
        vcr = [labels.tasks[task] == "vcr" for task, _ in drops.columns]
        has_rest = any(vcr) and not all(vcr)
        rest = drops.loc[:, [not is_vcr for is_vcr in vcr]]
        sparsity = table.drop_duplicates("level").set_index("level").sparsity
        source = table.source[table.level > 0].iloc[0]
        for level in drops.index:
            rows.append(
                {
                    **dict(zip(_TABLE_KEY, key, strict=True)),
                    "source": source,
                    "level": level,
                    "sparsity": sparsity[level],
                    "drop": drops.loc[level].mean(skipna=False),
                    "drop_without_vcr": rest.loc[level].mean(skipna=False) if has_rest else None,
                }
            )
    names = ["source", "level", "sparsity", "drop", "drop_without_vcr"]
    return pd.DataFrame(rows, columns=[*_TABLE_KEY, *names]).astype({"drop_without_vcr": float})


def tables(universal: pd.DataFrame, averages: pd.DataFrame) -> list[Table]:
    """Return tables as in the paper: a row per sparsity, a column per task's metric, mean drops.

    Both frames have their published columns.
    """
    formatted = []
    for key, rows in universal.groupby(_TABLE_KEY, sort=False):
        named = dict(zip(_TABLE_KEY, key, strict=True))
        drops = averages[(averages[_TABLE_KEY] == pd.Series(named)).all(axis=1)].set_index("level")
        means = ["drop", *(["drop_without_vcr"] if drops.drop_without_vcr.notna().any() else [])]
        columns = layout.score_columns(rows)
        by_key = layout.rows_by_key(rows, "level")
        sparsity = rows.drop_duplicates("level").set_index("level").sparsity.sort_index()
        body: list[list[TableEntry]] = []
        for level, share in sparsity.items():
            scores = (layout.score_entry(by_key.get((level, *column))) for column in columns)
            mean_drops = (_drop(drops, level, name) for name in means)
            body.append(
                [formatting.percent(share) if level else "0 % (dense)", *scores, *mean_drops]
            )
        drop_headers = ["mean drop", "without VCR"][: len(means)]
        header = ["sparsity", *layout.column_names(columns), *drop_headers]
        caption = f"Tickets from {named['ticket']}: {formatting.table_caption(named)}"
        formatted.append(Table(header=header, rows=body, caption=caption))
    return formatted


def _drop(averages: pd.DataFrame, level: Any, name: str) -> TableEntry:
    if level not in averages.index:
        return formatting.MISSING
    value, printed = averages.loc[level, name], averages.loc[level, f"published_{name}"]
    text = formatting.MISSING if pd.isna(value) else f"{value:.2f} %"
    return layout.table_entry(text, "" if pd.isna(printed) else f"{PAPER} {printed:.2f} %")
