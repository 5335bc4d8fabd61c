"""Score against sparsity: the figure a lottery-ticket study is read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import blended_transform_factory

from orchestrator.config import Win
from orchestrator.report import words
from orchestrator.report.style import BAND, GRID, HUES, INK, MUTED, RC
from orchestrator.report.verdicts import RANDOM

_DASHES: dict[str, Any] = {"imp": "-", "random": (0, (4, 2)), "random_layerwise": (0, (1, 1.6))}
_MARKERS = {"imp": "o", "random": "s", "random_layerwise": "^"}
_LINES_A_FIGURE_BEARS = 9
_LABEL_GAP = 0.06
"""Distance of two labels in the margin, as a share of the axes' height: 14 pt of 3.3 inches."""


@dataclass(frozen=True, slots=True)
class _Label:
    y: float
    text: str
    color: str


def score_figures(levels: pd.DataFrame, dense: pd.Series, rule: Win) -> list[Figure]:
    """Figures for one (study, model, task, recipe, schedule): one, or one per rewind point where
    one could not bear all the lines.

    `levels` holds the group's rows of `tables.levels`, `dense` its row of `tables.dense`.
    """
    lines = levels.groupby(["source", "rewind"]).ngroups
    if lines <= _LINES_A_FIGURE_BEARS or levels.rewind.nunique() == 1:
        return [_score_figure(levels, dense, rule)]
    return [_score_figure(part, dense, rule) for _, part in levels.groupby("rewind")]


def _score_figure(levels: pd.DataFrame, dense: pd.Series, rule: Win) -> Figure:
    with mpl.rc_context(RC):
        figure = Figure(figsize=(5.7, 4.3))
        axes = figure.add_axes((0.115, 0.13, 0.61, 0.77))
        colors = _colors(levels)
        labels = _references(axes, dense, levels.prior.mean(), rule)
        for (source, rewind), curve in levels.groupby(["source", "rewind"], sort=False):
            label = _curve(axes, curve, dense, colors[source, rewind])
            labels += [label] if label else []
        _x_axis(axes, levels)
        _y_axis(axes, levels, dense)
        _margin(axes, labels)
        head = levels.iloc[0]
        axes.set_title(words.problem(head))
        what = f"{head.study} · {head.schedule}"
        figure.text(0.985, 0.932, what, ha="right", color=MUTED, size=8.5)  # the title's base line
    return figure


def _colors(levels: pd.DataFrame) -> dict[tuple[str, int], str]:
    """IMP and its random controls share the hue of their rewind point; other sources get the next
    ones."""
    names: dict[tuple[str, int], None] = {("", r): None for r in sorted(levels.rewind.unique())}
    hue_of = {}
    for source, rewind in levels[["source", "rewind"]].drop_duplicates().to_numpy():
        name = ("" if source in ("imp", *RANDOM) else source, rewind)
        names.setdefault(name)
        hue_of[source, rewind] = list(names).index(name)
    return {line: HUES[hue % len(HUES)] for line, hue in hue_of.items()}


def _references(axes: Axes, dense: pd.Series, prior: float, rule: Win) -> list[_Label]:
    """The dense band (mean, sd, and the seeds' range), the p % line, the question-only prior."""
    labels = []
    mean, sd = dense["mean"], dense.sd
    if pd.notna(mean):
        axes.axhspan(dense["min"], dense["max"], color=BAND, alpha=0.35, lw=0, zorder=0.5)
        if pd.notna(sd):
            axes.axhspan(mean - sd, mean + sd, color=BAND, alpha=0.55, lw=0, zorder=0.6)
        axes.axhline(mean, color=INK, lw=1.1, zorder=1.5)
        labels.append(_Label(mean, f"dense {words.spread(mean, sd)}", INK))
        line = rule.ratio * mean
        axes.axhline(line, color=INK, lw=0.9, ls=(0, (6, 2, 1, 2)), zorder=1.5)
        labels.append(_Label(line, f"{100 * rule.ratio:.4g} % of dense", INK))
    if pd.notna(prior):
        axes.axhline(prior, color=MUTED, lw=1, ls=(0, (1, 2)), zorder=1.4)
        labels.append(_Label(prior, f"question only {prior:.1f}", MUTED))
    return labels


def _curve(axes: Axes, curve: pd.DataFrame, dense: pd.Series, color: str) -> _Label | None:
    """One line over the levels that have a score, from the dense network at sparsity 0."""
    done = curve[curve.n > 0].sort_values("sparsity")
    if done.empty:
        return None
    source, rewind = done.source.iloc[0], int(done.rewind.iloc[0])
    main = source == "imp"
    columns = ["sparsity", "mean", "min", "max"]
    points = np.vstack([dense[columns].to_numpy(float), done[columns].to_numpy(float)])
    points = points[np.isfinite(points[:, 1])]
    sparsity, mean, low, high = points.T
    axes.fill_between(
        100 * sparsity, low, high, color=color, alpha=0.16 if main else 0.1, lw=0, zorder=2
    )
    axes.plot(
        100 * sparsity,
        mean,
        color=color,
        ls=_DASHES.get(source, (0, (5, 1.5, 1, 1.5))),
        lw=1.9 if main else 1.2,
        marker=_MARKERS.get(source, "D"),
        ms=4.6 if main else 3.6,
        mfc=color if main else "none",
        mew=1,
        zorder=4 if main else 3,
    )
    partial = done[done.n < done.planned]
    axes.plot(100 * partial.sparsity, partial["mean"], "x", color=INK, ms=6, mew=1, zorder=5)
    return _Label(float(mean[-1]), words.line(source, rewind), color)


def _x_axis(axes: Axes, levels: pd.DataFrame) -> None:
    """Linear; a geometric schedule gets its levels evenly spaced, as it keeps an equal share of
    the weights at each."""
    deepest = 100 * levels.sparsity.max()
    axes.set_xlabel("sparsity (% of the prunable weights removed)")
    if not str(levels.schedule.iloc[0]).startswith("geometric"):
        axes.set_xlim(-1.5, min(deepest + 2, 100))
        return
    floor = 100 - 0.9 * (100 - deepest)
    axes.set_xscale(
        "function",
        functions=(
            lambda s: -np.log(np.maximum(1 - np.asarray(s) / 100, 1e-6)),
            lambda t: 100 * (1 - np.exp(-np.asarray(t))),
        ),
    )
    axes.set_xlim(0 if deepest < 1 else -1.5, floor)
    ticks = sorted({0.0, *(round(100 * s, 1) for s in levels.planned_sparsity)})
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 9]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _y_axis(axes: Axes, levels: pd.DataFrame, dense: pd.Series) -> None:
    values = [levels["min"].min(), levels["max"].max(), levels.prior.mean()]
    values += [dense["min"], dense["max"]]
    known = [float(value) for value in values if pd.notna(value)]
    low, high = (min(known), max(known)) if known else (0.0, 100.0)
    pad = max(0.06 * (high - low), 0.5)
    axes.set_ylim(low - pad, high + pad)
    axes.set_ylabel("score (%)")
    axes.grid(axis="y", color=GRID)
    axes.tick_params(length=0)


def _margin(axes: Axes, labels: list[_Label]) -> None:
    """Write each line's name beside its end, pushed apart where they would touch."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [float(to_axes.transform((0.0, label.y))[1]) for label in labels]
    places = _push_apart(ends)
    frame = blended_transform_factory(axes.transAxes, axes.transAxes)
    for label, end, place in zip(labels, ends, places, strict=True):
        axes.plot(
            (1.0, 1.025, 1.04), (end, place, place), transform=frame, color=label.color, lw=0.7,
            alpha=0.7, clip_on=False,
        )  # fmt: skip
        axes.text(
            1.05, place, label.text, transform=frame, color=label.color, va="center", size=9.5
        )


def _push_apart(ends: list[float]) -> list[float]:
    """Places near `ends`, in their order, at least a gap from one another and inside the axes."""
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    places = [0.0] * len(ends)
    floor = 0.0
    for i in order:
        places[i] = floor = max(ends[i], floor)
        floor += _LABEL_GAP
    ceiling = 1.0
    for i in reversed(order):
        places[i] = ceiling = min(places[i], ceiling)
        ceiling -= _LABEL_GAP
    return places
