"""Which tickets win, by a stated rule.

The lottery-ticket papers state their rules loosely: Table 1 of "Playing Lottery Tickets with Vision
and Language" prints tickets whose mean misses its own 99 % line and that pass only within one
standard deviation. So ratio, tolerance and seeds are parameters, and every table prints them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from orchestrator.report.data.tables import CURVE, PROBLEM, levels, networks
from orchestrator.sweep.config import Win

RANDOM = ("random", "random_layerwise")
_EPSILON = 1e-9  # a score that equals the line in decimal must not fail by a binary rounding


def verdicts(cells: pd.DataFrame, rule: Win) -> pd.DataFrame:
    """One row per curve, with the highest sparsity that meets the rule; of each problem IMP comes
    first and random tickets last.

    `winning` and `relaxed` are sparsities (ratio 1 and the rule's ratio), missing if no level
    meets it; `unbroken` is the highest one up to which every level meets the rule's ratio, which
    a lucky level deep in the curve cannot raise. `score_*`, `random_*` and `random_layerwise_*`
    are taken at the relaxed winner's level. `open` counts cells of the curve without a score.
    """
    ticket_levels, measured = levels(cells), networks(cells)
    rows = [
        _verdict(curve, measured.of(dict(zip(CURVE, key, strict=True))), ticket_levels, rule)
        for key, curve in ticket_levels.groupby(CURVE, sort=False)
    ]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    problem = table.groupby([*PROBLEM, "schedule"], sort=False).ngroup()
    rank = table.source.map(lambda s: 0 if s == "imp" else 2 if s in RANDOM else 1)
    order = table.assign(problem=problem, rank=rank).sort_values(
        ["problem", "rank", "source", "rewind", "part"], kind="stable"
    )
    return table.loc[order.index].reset_index(drop=True)


_COLUMNS = [
    *CURVE,
    "verdict",
    "dense_mean",
    "dense_sd",
    "dense_n",
    "line",
    "winning",
    "relaxed",
    "unbroken",
    "score_mean",
    "score_sd",
    "score_n",
    *(f"{source}_{what}" for source in RANDOM for what in ("mean", "sd", "n")),
    "prior",
    "deepest",
    "open",
]


def _verdict(
    curve: pd.DataFrame, network: pd.Series | None, everything: pd.DataFrame, rule: Win
) -> dict[str, Any]:
    head = curve.iloc[0]
    scored = curve[(curve.n >= rule.seeds) & (curve.level > 0)]
    row: dict[str, Any] = {name: head[name] for name in CURVE}
    row["open"] = int((curve.planned - curve.n).sum())
    row["deepest"] = scored.sparsity.max()
    if network is not None:
        row |= {
            "dense_mean": network["mean"],
            "dense_sd": network["sd"],
            "dense_n": int(network["n"]),
        }
        row["prior"] = network["prior"]
    if network is None or network["n"] < rule.seeds or scored.empty:
        return row | {"verdict": "undecided"}
    winning = scored[meets(scored, network["mean"], rule)]
    relaxed = scored[meets(scored, rule.ratio * network["mean"], rule)]
    row["line"] = rule.ratio * network["mean"]
    if relaxed.empty:
        return row | {"verdict": "none"}
    best = relaxed.loc[relaxed.sparsity.idxmax()]
    row["verdict"] = "winning" if best.level in set(winning.level) else "relaxed winning"
    row["winning"] = winning.sparsity.max()
    row["relaxed"] = best.sparsity
    row["unbroken"] = _unbroken(scored, set(relaxed.level))
    row |= {f"score_{what}": best[what] for what in ("mean", "sd", "n")}
    for source in RANDOM:
        if head.source != source:
            row |= _control(everything, best, source)
    return row


def meets(rows: pd.DataFrame | pd.Series, line: float, rule: Win) -> Any:
    """Whether each row (`mean`, `sd`), or the one row, reaches the line, however many its seeds."""
    sd = np.nan_to_num(np.asarray(rows["sd"], float)) if rule.tolerance == "one_sd" else 0.0
    return rows["mean"] + sd >= line - _EPSILON


def judge(row: pd.Series, network: pd.Series | None, rule: Win) -> str:
    """The verdict on one level of a curve (`mean`, `sd`, `n`)."""
    if network is None or min(network["n"], row["n"]) < rule.seeds:
        return "undecided"
    if not meets(row, rule.ratio * network["mean"], rule):
        return "none"
    return "winning" if meets(row, network["mean"], rule) else "relaxed winning"


def _unbroken(scored: pd.DataFrame, passing: set[int]) -> float | None:
    last = None
    for _, row in scored.sort_values("level").iterrows():
        if row.level not in passing:
            break
        last = float(row.sparsity)
    return last


def _control(everything: pd.DataFrame, best: pd.Series, source: str) -> dict[str, Any]:
    """The random ticket's score at `best`'s level: from the same rewind point if there is one, and
    of the same study where studies differ."""
    same = everything[(everything.source == source) & (everything.level == best.level)]
    for name in (*PROBLEM, "schedule"):
        same = same[same[name] == best[name]]
    for name in ("rewind", "part"):
        own = same[same[name] == best[name]]
        same = own if len(own) else same
    if same.empty:
        return {}
    return {f"{source}_{what}": same.iloc[0][what] for what in ("mean", "sd", "n")}
