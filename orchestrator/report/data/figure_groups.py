"""Which curves are drawn together: a figure for each question that a sweep asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from orchestrator.report.data import labels as words
from orchestrator.report.data.tables import PROBLEM
from orchestrator.report.data.verdicts import RANDOM

Kind: TypeAlias = Literal["score", "weights", "transfer", "rewinding", "adversarial"]

_LINES_A_PANEL_BEARS = 9
_LEVELS_A_CURVE_NEEDS = 3
"""Fewer, and a table says it better; the tickets' own curves are drawn whatever they have."""


@dataclass(frozen=True, slots=True)
class Family:
    """Curves of one model and schedule that belong into one figure, in panels by problem."""

    kind: Kind
    model: str
    schedule: str
    rewind: int | None
    """Of all curves; None where they differ."""
    rows: pd.DataFrame
    """Of `tables.levels`, with the columns `panel` (its title), `line` (the curve's name), `hue`
    (0 for the first colour) and `strong` (what the eye should find first)."""


def families(levels: pd.DataFrame) -> list[Family]:
    """The figures of a sweep; those of which nothing is scored are left out.

    A sweep of one problem with few curves has them all in one figure.
    """
    found = []
    for (model, schedule), rows in levels.groupby(["model", "schedule"], sort=False):
        for kind, rewind, chosen in _split(rows):
            if chosen.n.sum():
                styled = _styled(kind, chosen)
                found.append(Family(kind, str(model), str(schedule), rewind, styled))
    return found


def _split(rows: pd.DataFrame) -> Iterator[tuple[Kind, int | None, pd.DataFrame]]:
    standard = rows[rows.adversary == "none"]
    lines = rows[["source", "rewind", "part", "recipe"]].drop_duplicates()
    one_problem = len(rows[["task", "metric", "recipe"]].drop_duplicates()) == 1
    if one_problem and len(lines) <= _LINES_A_PANEL_BEARS:
        yield "score", None, rows
        return
    first = standard.groupby(PROBLEM).rewind.transform("min")
    main = standard[(standard.rewind == first) & standard.source.isin(["imp", "omp", *RANDOM])]
    if len(main):
        yield "score", None, main
    for rewind, part in standard.groupby("rewind"):
        imp = part.source == "imp"
        weights = part.source.isin(words.OTHER_WEIGHTS) | part.source.str.startswith("init:")
        transferred = part.source.str.startswith("transfer:")
        if _curved(part[weights]):
            yield "weights", int(rewind), _where_any(part[imp | weights], weights)
        if _curved(part[transferred]):
            yield "transfer", int(rewind), _where_any(part[imp | transferred], transferred)
    rewinds = standard[standard.source == "imp"].groupby(PROBLEM).rewind.nunique()
    several = pd.MultiIndex.from_frame(standard[PROBLEM]).isin(rewinds[rewinds > 1].index)
    if several.any():
        yield "rewinding", None, standard[several & (standard.source == "imp")]
    yield from _adversarial(rows)


def _curved(rows: pd.DataFrame) -> bool:
    """Whether some curve has enough levels to be one."""
    if rows.empty:
        return False
    curves = rows.groupby([*PROBLEM, "source", "part"])["level"].nunique()
    return bool(curves.max() >= _LEVELS_A_CURVE_NEEDS)


def _where_any(rows: pd.DataFrame, wanted: pd.Series) -> pd.DataFrame:
    """The rows of those problems in which some row is wanted."""
    has = wanted.loc[rows.index].groupby([rows[name] for name in PROBLEM]).transform("any")
    return rows[has]


def _adversarial(rows: pd.DataFrame) -> Iterator[tuple[Kind, int | None, pd.DataFrame]]:
    """Adversarial training beside standard training, where both have the same kind of tickets."""
    for rewind, part in rows.groupby("rewind"):
        hostile = part.adversary != "none"
        if not _curved(part[hostile]):
            continue
        same = ["task", "metric", "source"]
        both = pd.MultiIndex.from_frame(part[same]).isin(
            pd.MultiIndex.from_frame(part.loc[hostile, same])
        )
        yield "adversarial", int(rewind), part[both]


def _styled(kind: Kind, rows: pd.DataFrame) -> pd.DataFrame:
    own = rows.source == "imp"
    several = rows.recipe.nunique() > 1 and kind != "adversarial"
    panel = [words.column(row) + (f", {row['recipe']}" if several else "") for row in _dicts(rows)]
    line = [words.line(row["source"], row["rewind"], row["part"]) for row in _dicts(rows)]
    colour, strong = rows.source + rows.part, own
    if kind == "transfer":
        origin = rows.source.str.removeprefix("transfer:").where(~own, rows.task)
        line = [f"from {task}" for task in origin]
        colour = pd.Categorical(origin, dict.fromkeys([*rows.task, *origin]))
    elif kind == "adversarial":
        line = [f"{words.source(row['source'])}, {row['recipe']}" for row in _dicts(rows)]
        colour, strong = rows.source, rows.adversary != "none"
    elif rows.rewind.nunique() > 1:  # IMP and its random controls share the hue of their theta_i
        shared = rows.source.isin(["imp", *RANDOM])
        colour = rows.source.where(~shared, "") + rows.part + " " + rows.rewind.astype("str")
    hue = colour.codes if isinstance(colour, pd.Categorical) else pd.factorize(colour)[0]
    return rows.assign(panel=panel, line=line, hue=hue, strong=strong)


def _dicts(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
