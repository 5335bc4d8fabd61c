"""How numbers and curves are written for people: in tables, figures and the headline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from orchestrator.report.data.tables import PROBLEM
from orchestrator.report.data.verdicts import RANDOM
from orchestrator.sweep.config import Win

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
OTHER_WEIGHTS = ("reinit", "shuffle_within", "shuffle_across")


def theta(rewind: int) -> str:
    """`θ₀`, `θ₁₂₀`: the weights that every level restarts from."""
    return f"θ{str(rewind).translate(_SUBSCRIPTS)}"


def source(name: str) -> str:
    """`imp` -> `IMP`, `transfer:vqa` -> `from vqa`, `init:bert` -> `IMP, bert init`."""
    kind, _, label = name.partition(":")
    if kind == "transfer":
        return f"from {label}"
    return f"IMP, {label} init" if kind == "init" else _SOURCES.get(name, name)


def line(name: str, rewind: int, part: str = "") -> str:
    """The name of a curve among others of its figure, such as `IMP θ₀`; with its study where
    studies differ."""
    own_weights = name not in OTHER_WEIGHTS and not name.startswith("init:")
    curve = f"{source(name)} {theta(rewind)}" if own_weights else source(name)
    return f"{curve}, {part}" if part else curve


def column(row: Mapping[str, Any]) -> str:
    """`vqa`, `flickr IR`: the task, and the metric where the task has several."""
    return f"{row['task']} {row['metric']}".rstrip()


def number(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None or pd.isna(value) else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """0.5 -> `50 %`, 0.488 -> `48.8 %`."""
    if share is None or pd.isna(share):
        return MISSING
    return f"{round(100 * share, 2):.4g} %"


def spread(mean: float | None, sd: float | None, digits: int = 1) -> str:
    """`93.6 ± 0.9`; the mean alone where one seed gives no spread."""
    if mean is None or pd.isna(mean) or sd is None or pd.isna(sd):
        return number(mean, digits)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def spread_n(row: Mapping[str, Any], prefix: str) -> str:
    """`93.6 ± 0.9 (3)` from the columns `<prefix>_mean`, `_sd`, `_n`; the number of seeds last."""
    mean, sd, n = (row[f"{prefix}_{what}"] for what in ("mean", "sd", "n"))
    return MISSING if pd.isna(mean) else f"{spread(mean, sd)} ({int(n)})"


def wins(verdict: str) -> bool:
    return verdict in ("winning", "relaxed winning")


def win(rule: Win) -> str:
    """The win rule in words: `mean + 1 sd ≥ 0.99 × dense mean, at least 2 seeds`."""
    reach = "mean + 1 sd" if rule.tolerance == "one_sd" else "mean"
    return f"{reach} ≥ {rule.ratio:.4g} × dense mean, at least {count(rule.seeds, 'seed')}"


def share_of_dense(rule: Win) -> str:
    return f"{100 * rule.ratio:.4g} % of dense"


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
    return f"{row['model']} on {column(row)}{recipe}"


def caption(table: Mapping[str, Any]) -> str:
    """Over a table of several tasks: `uniter, linear 0.1`, and what is not as usual."""
    told = [str(table["model"]), str(table["schedule"])]
    told += [f"recipe {table['recipe']}"] if table.get("recipe", "default") != "default" else []
    told += [f"from {theta(table['rewind'])}"] if table.get("rewind") else []
    told += [f"study {table['part']}"] if table["part"] else []
    return ", ".join(told)


def verdict_table(verdicts: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The verdict table as text: header and rows, down to the column `verdict` in words.

    `(n)` is the number of seeds. What is the same in every row (problem, schedule) is not repeated
    in each.
    """
    told = {"schedule": verdicts.schedule}
    told["model, task"] = verdicts[PROBLEM].agg(tuple, axis=1)
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
        line(row["source"], row["rewind"], row["part"]),
        f"{row['verdict']}{open_cells}",
        *(percent(row[name]) for name in ("winning", "relaxed", "unbroken")),
        *(spread_n(row, name) for name in ("score", *RANDOM, "dense")),
        number(row["line"], 2),
        number(row["prior"]),
    ]


PAPER = "VLT"
