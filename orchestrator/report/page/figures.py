"""Figures of score against sparsity: a single large panel, or small panels under one legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from orchestrator.report.data import formatting
from orchestrator.report.data.figure_groups import FigureGroup
from orchestrator.report.data.tables import DenseNetworks
from orchestrator.report.page.curves import (
    LineStyle,
    draw_curve,
    draw_references,
    line_styles,
    reference_handles,
    set_x_axis,
    set_y_axis,
)
from orchestrator.report.page.style import INK, MUTED, RC
from orchestrator.sweep.config import Win

_LABEL_GAP = 0.06
"""Minimum distance of labels in the margin, as a share of the axes' height: 14 pt of 3.3 in."""
_X_LABEL = "sparsity (% of the prunable weights removed)"
_PANELS_PER_ROW = 3
_PANEL, _LEFT, _GAP_X, _GAP_Y = (2.85, 2.0), 0.62, 0.5, 0.62
"""Inches: width and height of a panel, the left margin, and the gaps between panels."""


@dataclass(frozen=True, slots=True)
class _Label:
    y: float
    text: str
    color: str


def score_figure(group: FigureGroup, networks: DenseNetworks, rule: Win) -> Figure:
    """Draw a group of curves: in one large panel with names at their ends, or in small panels
    under one legend."""
    if group.rows.panel.nunique() == 1:
        return _single_panel(group, networks, rule)
    return _small_multiples(group, networks, rule)


def _single_panel(group: FigureGroup, networks: DenseNetworks, rule: Win) -> Figure:
    rows = group.rows
    network = _reference(rows, networks)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(5.7, 4.3))
        axes = figure.add_axes((0.115, 0.13, 0.61, 0.77))
        prior = _prior(group, rows)
        draw_references(axes, network, prior, rule)
        labels = _reference_labels(network, prior, rule)
        for line, style, points in _lines(rows, line_styles(group)):
            end = draw_curve(axes, points, _start_point(points, networks), style)
            own_ticket = group.kind == "transfer" and style.strong
            text = f"{line}, its own" if own_ticket else line
            labels += [] if end is None else [_Label(end, text, style.color)]
        set_x_axis(axes, rows)
        set_y_axis(axes, rows, network, prior)
        axes.set_xlabel(_X_LABEL)
        axes.set_ylabel("score (%)")
        _margin(axes, labels)
        axes.set_title(formatting.problem_name(rows.iloc[0]))
        figure.text(0.985, 0.932, group.schedule, ha="right", color=MUTED, size=8.5)  # title's line
    return figure


def _reference(rows: pd.DataFrame, networks: DenseNetworks) -> pd.Series | None:
    """Return the dense network of a panel; the standard one if the panel has standard runs."""
    standard = rows[rows.adversary == "none"]
    return networks.find((standard if len(standard) else rows).iloc[0])


def _start_point(curve: pd.DataFrame, networks: DenseNetworks) -> pd.Series | None:
    """Return the dense network at which a curve starts; None if its recipe has none."""
    first = curve.iloc[0]
    network = networks.find(first)
    return network if network is not None and network["recipe"] == first.recipe else None


def _prior(group: FigureGroup, rows: pd.DataFrame) -> float:
    """Return the score without the image for score figures; it would compress the curves of
    others."""
    return float(rows.prior.mean()) if group.kind == "score" else math.nan


def _lines(
    rows: pd.DataFrame, styles: dict[tuple[str, bool], LineStyle]
) -> list[tuple[str, LineStyle, pd.DataFrame]]:
    curves = rows.groupby(["line", "strong"], sort=False)
    return [(line, styles[line, strong], curve) for (line, strong), curve in curves]


def _reference_labels(network: pd.Series | None, prior: float, rule: Win) -> list[_Label]:
    labels = []
    if network is not None and pd.notna(network["mean"]):
        mean = network["mean"]
        labels.append(_Label(mean, f"dense {formatting.mean_sd(mean, network.sd)}", INK))
        labels.append(_Label(rule.ratio * mean, formatting.share_of_dense(rule), INK))
    if pd.notna(prior):
        labels.append(_Label(prior, f"{formatting.PRIOR_LABEL} {prior:.1f}", MUTED))
    return labels


def _small_multiples(group: FigureGroup, networks: DenseNetworks, rule: Win) -> Figure:
    panels = list(group.rows.groupby("panel", sort=False))
    across = min(_PANELS_PER_ROW, len(panels))
    down = math.ceil(len(panels) / across)
    styles = line_styles(group)
    handles = _legend(group, styles, rule)
    legend_rows = math.ceil(len(handles) / (2 * across))
    (wide, high), top = _PANEL, 0.5 + 0.2 * legend_rows + 0.32
    width = _LEFT + across * (wide + _GAP_X) - _GAP_X + 0.15
    height = top + down * (high + _GAP_Y) - _GAP_Y + 0.6
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height))
        for i, (title, rows) in enumerate(panels):
            row, column = divmod(i, across)
            left, bottom = _LEFT + column * (wide + _GAP_X), height - top - high
            bottom -= row * (high + _GAP_Y)
            position = (left / width, bottom / height, wide / width, high / height)
            axes = figure.add_axes(position)
            _panel(axes, str(title), rows, networks, rule, styles, _prior(group, rows))
            if column == 0:
                axes.set_ylabel("score (%)")
            if i + across >= len(panels):
                axes.set_xlabel("sparsity (%)")
        figure.text(0.06 / width, 1 - 0.2 / height, group.model, size=11.5, weight="bold")
        figure.text(
            1 - 0.15 / width, 1 - 0.2 / height, group.schedule, ha="right", color=MUTED, size=9
        )
        figure.legend(
            handles=handles, ncols=2 * across, loc="upper left", frameon=False, fontsize=9,
            bbox_to_anchor=(0, 1 - 0.3 / height), handlelength=2.4, columnspacing=1.4,
            borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _legend(
    group: FigureGroup, styles: dict[tuple[str, bool], LineStyle], rule: Win
) -> list[Line2D]:
    """Return one entry per line; in transfer figures a thick line is the task's own ticket."""
    transfer = group.kind == "transfer"
    handles = []
    for (name, strong), style in styles.items():
        if transfer and strong and (name, False) in styles:
            continue
        handle = style.line()
        handle.set_label(name)
        handles.append(handle)
    if transfer:
        handles.append(Line2D((), (), color=MUTED, lw=2.6, label="thick: the task's own ticket"))
    return [*handles, *reference_handles(rule, bool(pd.notna(_prior(group, group.rows))))]


def _panel(
    axes: Axes,
    title: str,
    rows: pd.DataFrame,
    networks: DenseNetworks,
    rule: Win,
    styles: dict[tuple[str, bool], LineStyle],
    prior: float,
) -> None:
    network = _reference(rows, networks)
    draw_references(axes, network, prior, rule)
    for _, style, points in _lines(rows, styles):
        draw_curve(axes, points, _start_point(points, networks), style)
    set_x_axis(axes, rows)
    set_y_axis(axes, rows, network, prior)
    axes.tick_params(labelsize=8.5)
    axes.set_title(title, size=10, pad=5)
    if network is not None and network["n"]:
        dense = f"dense {formatting.mean_sd(network['mean'], network.sd)}"
        axes.text(1, 1.03, dense, transform=axes.transAxes, ha="right", color=MUTED, size=8.5)
    if not rows.n.sum():
        axes.text(
            0.5, 0.5, "not scored yet", transform=axes.transAxes, ha="center", color=MUTED, size=9
        )


def _margin(axes: Axes, labels: Sequence[_Label]) -> None:
    """Write each line's name next to its end; names that would touch are moved apart."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [float(to_axes.transform((0.0, label.y))[1]) for label in labels]
    positions = _push_apart(ends)
    frame = blended_transform_factory(axes.transAxes, axes.transAxes)
    for label, end, position in zip(labels, ends, positions, strict=True):
        axes.plot(
            (1.0, 1.025, 1.04), (end, position, position), transform=frame, color=label.color,
            lw=0.7, alpha=0.7, clip_on=False,
        )  # fmt: skip
        axes.text(
            1.05, position, label.text, transform=frame, color=label.color, va="center", size=9.5
        )


def _push_apart(ends: list[float]) -> list[float]:
    """Return positions near `ends`, in their order, at least a gap apart and inside the axes."""
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    positions = [0.0] * len(ends)
    floor = 0.0
    for i in order:
        positions[i] = floor = max(ends[i], floor)
        floor += _LABEL_GAP
    ceiling = 1.0
    for i in reversed(order):
        positions[i] = ceiling = min(positions[i], ceiling)
        ceiling -= _LABEL_GAP
    return positions
