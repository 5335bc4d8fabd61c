"""Tickets found by pre-training, worn on every task: VLT's Table 2."""

from __future__ import annotations

from typing import Any

import pandas as pd

from orchestrator.plan.graph import DENSE
from orchestrator.report.data import labels as words
from orchestrator.report.data.labels import PAPER
from orchestrator.report.data.tables import COLUMN, Labels, Networks
from orchestrator.report.data.verdicts import judge
from orchestrator.report.page import layout
from orchestrator.report.page.page import Entry, Table
from orchestrator.sweep.config import Win

TABLE = ["model", "recipe", "schedule", "rewind", "ticket", "part"]
_KEPT = ["adversary", "mean", "sd", "n", "planned"]
_COLUMNS = [*TABLE, *COLUMN, "source", "level", "sparsity", *_KEPT, "drop", "verdict"]


def universal(levels: pd.DataFrame, networks: Networks, rule: Win, labels: Labels) -> pd.DataFrame:
    """One row per table, level and column, the dense scores as level 0; standard training only.

    `ticket` is the pre-training task; `drop` is what is lost of the dense score, in percent of it.
    """
    origin = levels.source.str.removeprefix("transfer:")
    wanted = levels.source.str.startswith("transfer:") & (levels.adversary == "none")
    wanted &= origin.map(labels.pretraining).astype(bool)
    rows: list[dict[str, Any]] = []
    chosen = levels.assign(ticket=origin)[wanted]
    for key, curve in chosen.groupby([*TABLE, *COLUMN], sort=False):
        named = dict(zip([*TABLE, *COLUMN], key, strict=True))
        network = networks.of(curve.iloc[0])
        if network is not None:
            kept = {name: network[name] for name in _KEPT}
            place = {"source": DENSE, "level": 0, "sparsity": 0.0, "verdict": ""}
            rows.append({**named, **place, **kept})
        for _, row in curve.iterrows():
            kept = {name: row[name] for name in _KEPT}
            place = {"source": row.source, "level": row.level, "sparsity": row.planned_sparsity}
            lost = relative_drop(row["mean"], network)
            verdict = judge(row, network, rule)
            rows.append({**named, **place, **kept, "drop": lost, "verdict": verdict})
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"drop": float})


def relative_drop(mean: float, network: pd.Series | None) -> float | None:
    """What is lost of the dense score, in percent of it: VLT, Table 2."""
    if network is None or not network["mean"] > 0:
        return None
    return float(100 * (network["mean"] - mean) / network["mean"])


def average_drops(universal: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """One row per table and level: the unweighted mean of `drop` over all columns (image and text
    retrieval count as two), and the same without VCR, missing while a column lacks its score.

    This is how VLT's Table 2 averages: its eight figures follow from its scores in this way.
    """
    rows = []
    for key, table in universal.groupby(TABLE, sort=False):
        drops = table[table.level > 0].pivot(index="level", columns=COLUMN, values="drop")
        vcr = [labels.tasks[task] == "vcr" for task, _ in drops.columns]
        some = any(vcr) and not all(vcr)
        rest = drops.loc[:, [not is_vcr for is_vcr in vcr]]
        sparsity = table.drop_duplicates("level").set_index("level").sparsity
        source = table.source[table.level > 0].iloc[0]
        for level in drops.index:
            rows.append(
                {
                    **dict(zip(TABLE, key, strict=True)),
                    "source": source,
                    "level": level,
                    "sparsity": sparsity[level],
                    "drop": drops.loc[level].mean(skipna=False),
                    "drop_without_vcr": rest.loc[level].mean(skipna=False) if some else None,
                }
            )
    names = ["source", "level", "sparsity", "drop", "drop_without_vcr"]
    return pd.DataFrame(rows, columns=[*TABLE, *names]).astype({"drop_without_vcr": float})


def tables(universal: pd.DataFrame, averages: pd.DataFrame) -> list[Table]:
    """As the paper sets it: a row for each sparsity, a column for each task's metric, and the mean
    relative drops. Both frames with their published columns."""
    found = []
    for key, rows in universal.groupby(TABLE, sort=False):
        named = dict(zip(TABLE, key, strict=True))
        own = averages[(averages[TABLE] == pd.Series(named)).all(axis=1)].set_index("level")
        means = ["drop", *(["drop_without_vcr"] if own.drop_without_vcr.notna().any() else [])]
        columns = layout.columns(rows)
        by_place = layout.places(rows, "level")
        sparsity = rows.drop_duplicates("level").set_index("level").sparsity.sort_index()
        body: list[list[Entry]] = []
        for level, share in sparsity.items():
            scores = (layout.score(by_place.get((level, *column))) for column in columns)
            ends = (_drop(own, level, name) for name in means)
            body.append([words.percent(share) if level else "0 % (dense)", *scores, *ends])
        last = ["mean drop", "without VCR"][: len(means)]
        header = ["sparsity", *layout.names(columns), *last]
        caption = f"Tickets from {named['ticket']}: {words.caption(named)}"
        found.append(Table(header=header, rows=body, caption=caption))
    return found


def _drop(averages: pd.DataFrame, level: Any, name: str) -> Entry:
    if level not in averages.index:
        return words.MISSING
    value, printed = averages.loc[level, name], averages.loc[level, f"published_{name}"]
    text = words.MISSING if pd.isna(value) else f"{value:.2f} %"
    return layout.entry(text, "" if pd.isna(printed) else f"{PAPER} {printed:.2f} %")
