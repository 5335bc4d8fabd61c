"""Format numbers and names of curves for tables, figures and the headline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from orchestrator.report.data.tables import PROBLEM_KEY
from orchestrator.sources.names import PRIOR_LABEL as PRIOR_LABEL
from orchestrator.sources.names import comparison_sources, find_source
from orchestrator.sources.names import theta as theta
from orchestrator.sweep.config import Win

MISSING = "–"


def source_name(source: str) -> str:
    """Convert `imp` to `IMP`, `transfer:vqa` to `from vqa`, `init:bert` to `IMP, bert init`."""
    return find_source(source).label


def curve_label(source: str, rewind: int, variant: str = "") -> str:
    """Return the name of a curve within its figure, such as `IMP θ₀`, with its variant if any."""
    curve = find_source(source).curve_label(rewind)
    return f"{curve}, {variant}" if variant else curve


def column_name(row: Mapping[str, Any]) -> str:
    """Return the task, and the metric if the task has several: `vqa`, `flickr IR`."""
    return f"{row['task']} {row['metric']}".rstrip()


def number(value: float | None, digits: int = 1) -> str:
    """Format a number with fixed digits; a dash if it is missing."""
    return MISSING if value is None or pd.isna(value) else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """Convert a share to percent: 0.5 to `50 %`, 0.488 to `48.8 %`."""
    if share is None or pd.isna(share):
        return MISSING
    return f"{round(100 * share, 2):.4g} %"


def mean_sd(mean: float | None, sd: float | None, digits: int = 1) -> str:
    """Return `93.6 ± 0.9`, or the mean alone if there is no standard deviation."""
    if mean is None or pd.isna(mean) or sd is None or pd.isna(sd):
        return number(mean, digits)
    return f"{mean:.{digits}f} ± {sd:.{digits}f}"


def mean_sd_n(row: Mapping[str, Any], prefix: str) -> str:
    """Return `93.6 ± 0.9 (3)` from the columns `<prefix>_mean`, `_sd` and `_n` (seeds)."""
    mean, sd, n = (row[f"{prefix}_{name}"] for name in ("mean", "sd", "n"))
    return MISSING if pd.isna(mean) else f"{mean_sd(mean, sd)} ({int(n)})"


def is_winning(verdict: str) -> bool:
    return verdict in ("winning", "relaxed winning")


def describe_rule(rule: Win) -> str:
    """Return the win rule as text: `mean + 1 sd ≥ 0.99 × dense mean, at least 2 seeds`."""
    reached = "mean + 1 sd" if rule.tolerance == "one_sd" else "mean"
    return f"{reached} ≥ {rule.ratio:.4g} × dense mean, at least {plural(rule.seeds, 'seed')}"


def share_of_dense(rule: Win) -> str:
    return f"{100 * rule.ratio:.4g} % of dense"


def plural(number: int, noun: str) -> str:
    """Return `1 cell`, `4 cells`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Format seconds as `41 s`, `12.5 min`, `3.2 h`."""
    if math.isnan(seconds):
        return MISSING
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def problem_name(row: Mapping[str, Any]) -> str:
    """Return `uniter on easy_vqa`, with the recipe if it is not the default."""
    recipe = "" if row["recipe"] in ("", "default") else f", recipe {row['recipe']}"
    return f"{row['model']} on {column_name(row)}{recipe}"


def table_caption(table: Mapping[str, Any]) -> str:
    """Return the caption of a table of several tasks: `uniter, linear 0.1`.

    Recipe, rewind point and study follow if they are not the default.
    """
    parts = [str(table["model"]), str(table["schedule"])]
    parts += [f"recipe {table['recipe']}"] if table.get("recipe", "default") != "default" else []
    parts += [f"from {theta(table['rewind'])}"] if table.get("rewind") else []
    parts += [f"study {table['variant']}"] if table["variant"] else []
    return ", ".join(parts)


def verdict_table(verdicts: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return the verdict table as text: its header and its rows.

    `(n)` is the number of seeds. Schedule and problem are columns only if they differ between rows.
    """
    optional = {"schedule": verdicts.schedule}
    optional["model, task"] = verdicts[PROBLEM_KEY].agg(tuple, axis=1)
    varying = [name for name, values in optional.items() if values.nunique() > 1]
    controls = comparison_sources(verdicts.source)
    rows = []
    for row in verdicts.to_dict("records"):
        names = {**row, "model, task": problem_name(row)}
        rows.append([*(str(names[name]) for name in varying), *_verdict_row(row, controls)])
    header = [
        *("tickets", "verdict", "winning to", "relaxed to", "unbroken to", "score there"),
        *(f"{source_name(control)} there" for control in controls),
        *("dense", "line", "prior"),
    ]
    return [*varying, *header], rows


def _verdict_row(row: Mapping[str, Any], controls: Sequence[str]) -> list[str]:
    open_cells = f", {plural(row['open'], 'cell')} open" if row["open"] else ""
    return [
        curve_label(row["source"], row["rewind"], row["variant"]),
        f"{row['verdict']}{open_cells}",
        *(percent(row[name]) for name in ("winning", "relaxed", "unbroken")),
        *(mean_sd_n(row, name) for name in ("score", *controls, "dense")),
        number(row["line"], 2),
        number(row["prior"]),
    ]


PAPER = "VLT"
"""Short name of the paper whose numbers are printed next to a sweep's own."""
