"""Decide which tickets win, by a stated rule.

The lottery-ticket papers state their rules loosely: Table 1 of "Playing Lottery Tickets with Vision
and Language" has tickets whose mean misses its own 99 % line and that pass only within one standard
deviation. Ratio, tolerance and number of seeds are therefore parameters, and the page prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.report.data.sources import standing
from orchestrator.report.data.tables import CURVE_KEY, PROBLEM_KEY, dense_networks, level_scores
from orchestrator.sources.names import comparison_sources
from orchestrator.sweep.config import Win

_EPSILON = 1e-9  # a score that equals the line in decimal must not fail by binary rounding


def curve_verdicts(cells: pd.DataFrame, rule: Win) -> pd.DataFrame:
    """Return one row per curve, with the highest sparsity that meets the rule.

    Within each problem, found tickets come first and controls of the same size last. `winning` and
    `relaxed` are sparsities (for ratio 1 and the rule's ratio), missing if no level meets it.
    `unbroken` is the highest sparsity up to which every level meets the rule's ratio; a lucky level
    after a gap cannot raise it. `score_*` is taken at the relaxed winner's level, and so is
    `<control>_*` of each control that winners are compared with: `random`, `random_layerwise`, and
    others that the cells have. `line` is the score that the rule requires: its ratio times
    `dense_mean`. `prior` is the score of a baseline without the image, `deepest` the highest
    sparsity at which enough seeds have a score, and `open` the number of the curve's cells without
    a score, skipped ones aside.
    """
    ticket_levels, networks = level_scores(cells), dense_networks(cells)
    controls = comparison_sources(ticket_levels.source)
    rows = [
        _verdict(
            curve,
            networks.find(dict(zip(CURVE_KEY, key, strict=True))),
            ticket_levels,
            controls,
            rule,
        )
        for key, curve in ticket_levels.groupby(CURVE_KEY, sort=False)
    ]
    table = pd.DataFrame(rows, columns=_columns(controls))
    problem = table.groupby([*PROBLEM_KEY, "schedule"], sort=False).ngroup()
    order = table.assign(problem=problem, rank=standing(table.source)).sort_values(
        ["problem", "rank", "source", "rewind", "variant"], kind="stable"
    )
    return table.loc[order.index].reset_index(drop=True)


def _columns(controls: Sequence[str]) -> list[str]:
    return [
        *(*CURVE_KEY, "verdict", "dense_mean", "dense_sd", "dense_n", "line"),
        *("winning", "relaxed", "unbroken", "score_mean", "score_sd", "score_n"),
        *(f"{source}_{what}" for source in controls for what in ("mean", "sd", "n")),
        *("prior", "deepest", "open"),
    ]


def _verdict(
    curve: pd.DataFrame,
    network: pd.Series | None,
    all_levels: pd.DataFrame,
    controls: Sequence[str],
    rule: Win,
) -> dict[str, Any]:
    first = curve.iloc[0]
    scored = curve[(curve.n >= rule.seeds) & (curve.level > 0)]
    row: dict[str, Any] = {name: first[name] for name in CURVE_KEY}
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
    winning = scored[meets_line(scored, network["mean"], rule)]
    relaxed = scored[meets_line(scored, rule.ratio * network["mean"], rule)]
    row["line"] = rule.ratio * network["mean"]
    if relaxed.empty:
        return row | {"verdict": "none"}
    best = relaxed.loc[relaxed.sparsity.idxmax()]
    row["verdict"] = "winning" if best.level in set(winning.level) else "relaxed winning"
    row["winning"] = winning.sparsity.max()
    row["relaxed"] = best.sparsity
    row["unbroken"] = _unbroken(scored, set(relaxed.level))
    row |= {f"score_{what}": best[what] for what in ("mean", "sd", "n")}
    for source in controls:
        if first.source != source:
            row |= _control(all_levels, best, source)
    return row


def meets_line(rows: pd.DataFrame | pd.Series, line: float, rule: Win) -> Any:
    """Return whether each row (`mean`, `sd`) reaches the line, whatever its number of seeds."""
    sd = np.nan_to_num(np.asarray(rows["sd"], float)) if rule.tolerance == "one_sd" else 0.0
    return rows["mean"] + sd >= line - _EPSILON


def level_verdict(row: pd.Series, network: pd.Series | None, rule: Win) -> str:
    """Return the verdict on one level of a curve (`mean`, `sd`, `n`)."""
    if network is None or min(network["n"], row["n"]) < rule.seeds:
        return "undecided"
    if not meets_line(row, rule.ratio * network["mean"], rule):
        return "none"
    return "winning" if meets_line(row, network["mean"], rule) else "relaxed winning"


def _unbroken(scored: pd.DataFrame, passing: set[int]) -> float | None:
    last = None
    for _, row in scored.sort_values("level").iterrows():
        if row.level not in passing:
            break
        last = float(row.sparsity)
    return last


def _control(all_levels: pd.DataFrame, best: pd.Series, source: str) -> dict[str, Any]:
    """Return the control's score at the level of `best`.

    The same rewind point and variant are preferred if they exist.
    """
    same = all_levels[(all_levels.source == source) & (all_levels.level == best.level)]
    for name in (*PROBLEM_KEY, "schedule"):
        same = same[same[name] == best[name]]
    for name in ("rewind", "variant"):
        closer = same[same[name] == best[name]]
        same = closer if len(closer) else same
    if same.empty:
        return {}
    return {f"{source}_{what}": same.iloc[0][what] for what in ("mean", "sd", "n")}
