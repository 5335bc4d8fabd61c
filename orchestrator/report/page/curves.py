"""One panel of a score-sparsity figure: its curves, reference lines and axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from orchestrator.report.data import formatting
from orchestrator.report.data.figure_groups import FigureGroup
from orchestrator.report.page.style import BAND, GRID_COLOR, HUES, INK, MUTED
from orchestrator.sources.names import find_source
from orchestrator.sweep.config import Win

_MARKERS_BY_HUE = "osD^vPX*"
_LINE_DASH: Any = (0, (6, 2, 1, 2))
_PRIOR_DASH: Any = (0, (1, 2))
_MAX_SCHEDULE_TICKS = 9


@dataclass(frozen=True, slots=True)
class LineStyle:
    """Style of a curve. Curves never differ in colour alone: dash, marker or both differ too."""

    color: str
    dash: Any
    marker: str
    strong: bool

    def line(self, x: Any = (), y: Any = ()) -> Line2D:
        return Line2D(
            x,
            y,
            color=self.color,
            ls=self.dash,
            lw=1.9 if self.strong else 1.2,
            marker=self.marker,
            ms=4.6 if self.strong else 3.6,
            mfc=self.color if self.strong else "none",
            mew=1,
            zorder=4 if self.strong else 3,
        )


def line_styles(group: FigureGroup) -> dict[tuple[str, bool], LineStyle]:
    """Return the style of each (line, strong) of a figure, the same in all of its panels."""
    styles = {}
    hues = group.rows.groupby("source").hue.nunique()
    unique = group.rows.drop_duplicates(["line", "strong"]).sort_values("hue", kind="stable")
    for line, strong, hue, source in unique[["line", "strong", "hue", "source"]].to_numpy():
        entry = find_source(source).entry
        style = entry.style
        dash, marker = (0, style.dash) if style.dash else "-", style.marker
        if group.kind == "transfer":
            dash, marker = "-", _MARKERS_BY_HUE[hue % len(_MARKERS_BY_HUE)]
        elif group.kind == "adversarial":
            dash, marker = (
                "-" if strong else (0, (4, 2)),
                _MARKERS_BY_HUE[hue % len(_MARKERS_BY_HUE)],
            )
        elif group.kind == "weights" and entry.figure == "weights":
            dash, marker = (0, (4, 2)), _MARKERS_BY_HUE[hue % len(_MARKERS_BY_HUE)]
        color = HUES[hue % len(HUES)]
        if style.color and hues[source] == 1 and group.kind != "transfer":
            color = style.color  # where hues tell tasks or rewind points apart, it would hide them
        styles[str(line), bool(strong)] = LineStyle(color, dash, marker, bool(strong))
    return styles


def draw_references(axes: Axes, network: pd.Series | None, prior: float, rule: Win) -> None:
    """Draw the dense band (mean, sd, range of seeds), the p % line and the score without the
    image."""
    if network is not None and pd.notna(network["mean"]):
        mean, sd = network["mean"], network.sd
        axes.axhspan(network["min"], network["max"], color=BAND, alpha=0.35, lw=0, zorder=0.5)
        if pd.notna(sd):
            axes.axhspan(mean - sd, mean + sd, color=BAND, alpha=0.55, lw=0, zorder=0.6)
        axes.axhline(mean, color=INK, lw=1.1, zorder=1.5)
        axes.axhline(rule.ratio * mean, color=INK, lw=0.9, ls=_LINE_DASH, zorder=1.5)
    if pd.notna(prior):
        axes.axhline(prior, color=MUTED, lw=1, ls=_PRIOR_DASH, zorder=1.4)


def reference_handles(rule: Win, prior: bool) -> list[Line2D]:
    """Return the legend entries of the lines that `draw_references` draws."""
    handles = [
        Line2D((), (), color=INK, lw=1.1, label="dense"),
        Line2D((), (), color=INK, lw=0.9, ls=_LINE_DASH, label=formatting.share_of_dense(rule)),
    ]
    if prior:
        label = formatting.PRIOR_LABEL
        handles.append(Line2D((), (), color=MUTED, lw=1, ls=_PRIOR_DASH, label=label))
    return handles


def draw_curve(
    axes: Axes, rows: pd.DataFrame, network: pd.Series | None, style: LineStyle
) -> float | None:
    """Draw a curve over the levels that have a score, from the dense network at sparsity 0.

    Return its last score; None if it has none. A cross marks levels with missing seeds.
    """
    done = rows[rows.n > 0].sort_values("sparsity")
    if done.empty:
        return None
    columns = ["sparsity", "mean", "min", "max"]
    points = done[columns].to_numpy(float)
    if network is not None and network["n"]:
        points = np.vstack([network[columns].to_numpy(float), points])
    sparsity, mean, low, high = points.T
    shade = 0.16 if style.strong else 0.1
    axes.fill_between(100 * sparsity, low, high, color=style.color, alpha=shade, lw=0, zorder=2)
    axes.add_line(style.line(100 * sparsity, mean))
    partial = done[done.n < done.planned]
    axes.plot(100 * partial.sparsity, partial["mean"], "x", color=INK, ms=6, mew=1, zorder=5)
    return float(mean[-1])


def set_x_axis(axes: Axes, rows: pd.DataFrame) -> None:
    """Set up the sparsity axis: linear, or with evenly spaced levels for a geometric schedule.

    A geometric schedule keeps an equal share of the weights at each level.
    """
    deepest = 100 * rows.sparsity.max()
    if not str(rows.schedule.iloc[0]).startswith("geometric"):
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
    ticks = sorted({0.0, *(round(100 * s, 1) for s in rows.planned_sparsity)})
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // _MAX_SCHEDULE_TICKS]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def set_y_axis(axes: Axes, rows: pd.DataFrame, network: pd.Series | None, prior: float) -> None:
    """Set up the score axis so that it shows all scores, the dense network and the prior."""
    values = [rows["min"].min(), rows["max"].max(), prior]
    if network is not None:
        values += [network["min"], network["max"]]
    known = [float(value) for value in values if pd.notna(value)]
    low, high = (min(known), max(known)) if known else (0.0, 100.0)
    pad = max(0.06 * (high - low), 0.5)
    axes.set_ylim(low - pad, high + pad)
    axes.yaxis.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="y", color=GRID_COLOR)
    axes.tick_params(length=0)
