"""Group the curves of a sweep into figures: one figure for each question it answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from orchestrator.report.data import formatting, sources
from orchestrator.report.data.tables import PROBLEM_KEY

FigureKind: TypeAlias = Literal["score", "weights", "transfer", "rewinding", "adversarial"]

_APPLIED: tuple[Literal["weights", "transfer"], ...] = ("weights", "transfer")
"""Figures of tickets that are applied elsewhere, next to the tickets where they were found."""
_MAX_LINES_PER_PANEL = 9
_MIN_LEVELS_PER_CURVE = 3
"""Shorter curves are left to the tables, except in score figures, which are always drawn."""


@dataclass(frozen=True, slots=True)
class FigureGroup:
    """Curves of one model and schedule that share a figure, with one panel per problem (task,
    metric and recipe)."""

    kind: FigureKind
    model: str
    schedule: str
    rewind: int | None
    """Rewind point of all curves; None if they differ."""
    rows: pd.DataFrame
    """Rows of `tables.level_scores` with the columns `panel` (its title), `line` (the curve's
    name), `hue` (0 for the first colour) and `strong` (whether the curve is emphasized)."""


def figure_groups(levels: pd.DataFrame) -> list[FigureGroup]:
    """Return the figures of a sweep, without those that have no score yet.

    If a sweep has one problem and few curves, they all share one figure.
    """
    groups = []
    for (model, schedule), rows in levels.groupby(["model", "schedule"], sort=False):
        for kind, rewind, chosen in _split(rows):
            if chosen.n.sum():
                styled = _add_style_columns(kind, chosen)
                groups.append(FigureGroup(kind, str(model), str(schedule), rewind, styled))
    return groups


def _split(rows: pd.DataFrame) -> Iterator[tuple[FigureKind, int | None, pd.DataFrame]]:
    standard = rows[rows.adversary == "none"]
    lines = rows[["source", "rewind", "variant", "recipe"]].drop_duplicates()
    one_problem = len(rows[["task", "metric", "recipe"]].drop_duplicates()) == 1
    if one_problem and len(lines) <= _MAX_LINES_PER_PANEL:
        yield "score", None, rows
        return
    first = standard.groupby(PROBLEM_KEY).rewind.transform("min")
    scored = sources.in_figure(standard.source, "score")
    main = standard[(standard.rewind == first) & scored]
    if len(main):
        yield "score", None, main
    for rewind, group in standard.groupby("rewind"):
        for figure in _APPLIED:
            applied = sources.in_figure(group.source, figure)
            if _has_curve(group[applied]):
                own = group.source.isin(sources.applied_sources(group.source[applied]))
                yield figure, int(rewind), _keep_problems_with(group[own | applied], applied)
    found = standard[sources.is_main(standard.source)]
    curve = [*PROBLEM_KEY, "source"]
    rewinds = found.groupby(curve).rewind.nunique()
    rewound = pd.MultiIndex.from_frame(found[curve]).isin(rewinds[rewinds > 1].index)
    if rewound.any():
        yield "rewinding", None, found[rewound]
    yield from _adversarial(rows)


def _has_curve(rows: pd.DataFrame) -> bool:
    """Return whether any curve has enough levels to be drawn."""
    if rows.empty:
        return False
    curves = rows.groupby([*PROBLEM_KEY, "source", "variant"])["level"].nunique()
    return bool(curves.max() >= _MIN_LEVELS_PER_CURVE)


def _keep_problems_with(rows: pd.DataFrame, selected: pd.Series) -> pd.DataFrame:
    """Keep the rows of those problems that have any selected row."""
    has_any = (
        selected.loc[rows.index].groupby([rows[name] for name in PROBLEM_KEY]).transform("any")
    )
    return rows[has_any]


def _adversarial(rows: pd.DataFrame) -> Iterator[tuple[FigureKind, int | None, pd.DataFrame]]:
    """Pair adversarial with standard training where both have the same kind of tickets."""
    for rewind, group in rows.groupby("rewind"):
        adversarial = group.adversary != "none"
        if not _has_curve(group[adversarial]):
            continue
        same = ["task", "metric", "source"]
        both = pd.MultiIndex.from_frame(group[same]).isin(
            pd.MultiIndex.from_frame(group.loc[adversarial, same])
        )
        yield "adversarial", int(rewind), group[both]


def _add_style_columns(kind: FigureKind, rows: pd.DataFrame) -> pd.DataFrame:
    several_recipes = rows.recipe.nunique() > 1 and kind != "adversarial"
    panel = [
        formatting.column_name(row) + (f", {row['recipe']}" if several_recipes else "")
        for row in _dicts(rows)
    ]
    line = [
        formatting.curve_label(row["source"], row["rewind"], row["variant"]) for row in _dicts(rows)
    ]
    colour, strong = rows.source + rows.variant, sources.is_main(rows.source)
    if kind == "transfer":
        origin, strong = sources.ticket_origins(rows), ~sources.is_transferred(rows.source)
        line = [f"from {task}" for task in origin]
        colour = pd.Categorical(origin, dict.fromkeys([*rows.task, *origin]))
    elif kind == "adversarial":
        line = [f"{formatting.source_name(row['source'])}, {row['recipe']}" for row in _dicts(rows)]
        colour, strong = rows.source, rows.adversary != "none"
    elif rows.rewind.nunique() > 1:  # IMP and its random controls share a hue per theta_i
        shared = sources.where(rows.source, lambda entry: entry.is_comparison)
        shared |= rows.source == sources.reference_source(rows.source)
        colour = rows.source.where(~shared, "") + rows.variant + " " + rows.rewind.astype("str")
    hue = colour.codes if isinstance(colour, pd.Categorical) else pd.factorize(colour)[0]
    return rows.assign(panel=panel, line=line, hue=hue, strong=strong)


def _dicts(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
