"""How numbers and curves are written for people: in tables, figures and the headline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchestrator.config import Win
from orchestrator.report.verdicts import RANDOM

MISSING = "–"
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_SOURCES = {
    "imp": "IMP",
    "omp": "OMP",
    "random": "random",
    "random_layerwise": "layer-matched",
    "reinit": "IMP, new init",
    "shuffle_within": "IMP, shuffled within",
    "shuffle_across": "IMP, shuffled across",
}
_OTHER_WEIGHTS = ("reinit", "shuffle_within", "shuffle_across")


def theta(rewind: int) -> str:
    """`θ₀`, `θ₁₂₀`: the weights that every level restarts from."""
    return f"θ{str(rewind).translate(_SUBSCRIPTS)}"


def source(name: str) -> str:
    """`imp` -> `IMP`, `transfer:vqa` -> `from vqa`."""
    return f"from {name[9:]}" if name.startswith("transfer:") else _SOURCES.get(name, name)


def line(name: str, rewind: int) -> str:
    """The name of a curve among others of its figure, such as `IMP θ₀`."""
    return source(name) if name in _OTHER_WEIGHTS else f"{source(name)} {theta(rewind)}"


def number(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None or pd.isna(value) else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """0.5 -> `50 %`, 0.488 -> `48.8 %`."""
    if share is None or pd.isna(share):
        return MISSING
    return f"{round(100 * share, 2):.4g} %"


def spread(mean: float | None, sd: float | None) -> str:
    """`93.6 ± 0.9`; the mean alone where one seed gives no spread."""
    if mean is None or pd.isna(mean) or sd is None or pd.isna(sd):
        return number(mean)
    return f"{mean:.1f} ± {sd:.1f}"


def spread_n(row: Mapping[str, Any], prefix: str) -> str:
    """`93.6 ± 0.9 (3)` from the columns `<prefix>_mean`, `_sd`, `_n`; the number of seeds last."""
    mean = row[f"{prefix}_mean"]
    if pd.isna(mean):
        return MISSING
    return f"{spread(mean, row[f'{prefix}_sd'])} ({int(row[f'{prefix}_n'])})"


def win(rule: Win) -> str:
    """The win rule in words: `mean + 1 sd ≥ 0.99 × dense mean, at least 2 seeds`."""
    reach = "mean + 1 sd" if rule.tolerance == "one_sd" else "mean"
    return f"{reach} ≥ {rule.ratio:.4g} × dense mean, at least {count(rule.seeds, 'seed')}"


def count(number: int, noun: str) -> str:
    """`1 cell`, `4 cells`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """`41 s`, `12.5 min`, `3.2 h`."""
    if math.isnan(seconds):
        return MISSING
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def problem(row: Mapping[str, Any]) -> str:
    """`uniter on easy_vqa`, with the recipe where it is not the default."""
    recipe = "" if row["recipe"] in ("", "default") else f", recipe {row['recipe']}"
    return f"{row['model']} on {row['task']}{recipe}"


def verdict_table(verdicts: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The verdict table as text: header and rows, down to the column `verdict` in words.

    `(n)` is the number of seeds. What is the same in every row (study, problem, schedule) is not
    repeated in each.
    """
    told = {"study": verdicts.study, "schedule": verdicts.schedule}
    told["model, task"] = verdicts[["model", "task", "recipe"]].agg(tuple, axis=1)
    several = [name for name, values in told.items() if values.nunique() > 1]
    rows = []
    for row in verdicts.to_dict("records"):
        names = {**row, "model, task": problem(row)}
        rows.append([*(str(names[name]) for name in several), *_verdict_row(row)])
    return [*several, *_VERDICT_HEADER], rows


_VERDICT_HEADER = (
    "tickets",
    "verdict",
    "winning to",
    "relaxed to",
    "unbroken to",
    "score there",
    "random there",
    "layer-matched there",
    "dense",
    "line",
    "prior",
)


def _verdict_row(row: Mapping[str, Any]) -> list[str]:
    open_cells = f", {count(row['open'], 'cell')} open" if row["open"] else ""
    return [
        line(row["source"], row["rewind"]),
        f"{row['verdict']}{open_cells}",
        *(percent(row[name]) for name in ("winning", "relaxed", "unbroken")),
        *(spread_n(row, name) for name in ("score", *RANDOM, "dense")),
        number(row["line"], 2),
        number(row["prior"]),
    ]


def headline(verdicts: pd.DataFrame, rule: Win) -> list[str]:
    """One paragraph per model and task: what its own IMP tickets reach, and beside what."""
    own = verdicts[verdicts.source == "imp"]
    groups = own.groupby(["study", "model", "task", "recipe"], sort=False)
    return [_headline(group, rule) for _, group in groups]


def _headline(group: pd.DataFrame, rule: Win) -> str:
    row = group.iloc[0]
    what = f"{problem(row)}: "
    open_cells = int(group.open.sum())
    rest = f" Not scored yet: {count(open_cells, 'cell')} of these." if open_cells else ""
    if (group.verdict == "undecided").all():
        return f"{what}no verdict yet; the rule wants {win(rule)}.{rest}"
    dense = f"the dense score of {spread(row.dense_mean, row.dense_sd)}"
    if group.relaxed.isna().all():
        return f"{what}no IMP ticket reaches {rule.ratio:.4g} × {dense}.{rest}"
    best = group.sort_values(["relaxed", "score_mean"]).dropna(subset="relaxed").iloc[-1]
    deepest = ", the deepest level run" if best.relaxed == best.deepest else ""
    text = (
        f"{what}IMP tickets reach {100 * rule.ratio:.4g} % of {dense} at up to"
        f" {percent(best.relaxed)} sparsity{deepest}; from {theta(best.rewind)} they score"
        f" {spread(best.score_mean, best.score_sd)} there."
    )
    text += _controls(best)
    if pd.notna(best.prior):
        text += f" A guess from the question alone scores {number(best.prior)}."
    return text + rest


def _controls(best: pd.Series) -> str:
    """What random tickets score at the same sparsity, and a warning where that is as good."""
    told = {
        "random": "Random tickets of that size score",
        "random_layerwise": "layer-matched random tickets",
    }
    parts = [
        f"{name} {spread(best[f'{control}_mean'], best[f'{control}_sd'])}"
        for control, name in told.items()
        if pd.notna(best[f"{control}_mean"])
    ]
    if not parts:
        return ""
    text = f" {' and '.join(parts)}."
    if best[[f"{control}_mean" for control in RANDOM]].max() >= best.line:
        text += " So random tickets reach the line too: here it does not tell tickets apart."
    return text
