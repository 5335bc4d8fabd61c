"""Score against sparsity: the figure a lottery-ticket study is read from, alone or in panels."""

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

from orchestrator.report.data import labels as words
from orchestrator.report.data.figure_groups import Family
from orchestrator.report.data.tables import Networks
from orchestrator.report.page.curves import (
    Look,
    curve,
    looks,
    reference_handles,
    references,
    x_axis,
    y_axis,
)
from orchestrator.report.page.style import INK, MUTED, RC
from orchestrator.sweep.config import Win

_LABEL_GAP = 0.06
"""Distance of two labels in the margin, as a share of the axes' height: 14 pt of 3.3 inches."""
_X_LABEL = "sparsity (% of the prunable weights removed)"
_PANELS_A_ROW = 3
_PANEL, _LEFT, _GAP_X, _GAP_Y = (2.85, 2.0), 0.62, 0.5, 0.62
"""Inches: width and height of a panel, the margin at the left, and the gaps between panels."""


@dataclass(frozen=True, slots=True)
class _Label:
    y: float
    text: str
    color: str


def score_figure(family: Family, networks: Networks, rule: Win) -> Figure:
    """The family's curves: in one large panel with names at their ends, or in small panels under
    one legend."""
    if family.rows.panel.nunique() == 1:
        return _large(family, networks, rule)
    return _small_multiples(family, networks, rule)


def _large(family: Family, networks: Networks, rule: Win) -> Figure:
    rows = family.rows
    network = _reference(rows, networks)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(5.7, 4.3))
        axes = figure.add_axes((0.115, 0.13, 0.61, 0.77))
        prior = _prior(family, rows)
        references(axes, network, prior, rule)
        labels = _reference_labels(network, prior, rule)
        for line, look, part in _lines(rows, looks(family)):
            end = curve(axes, part, _start(part, networks), look)
            own = family.kind == "transfer" and look.strong
            text = f"{line}, its own" if own else line
            labels += [] if end is None else [_Label(end, text, look.color)]
        x_axis(axes, rows)
        y_axis(axes, rows, network, prior)
        axes.set_xlabel(_X_LABEL)
        axes.set_ylabel("score (%)")
        _margin(axes, labels)
        axes.set_title(words.problem(rows.iloc[0]))
        figure.text(
            0.985, 0.932, family.schedule, ha="right", color=MUTED, size=8.5
        )  # title's line
    return figure


def _reference(rows: pd.DataFrame, networks: Networks) -> pd.Series | None:
    """The dense network of a panel: the standard one, where adversarial runs stand beside it."""
    standard = rows[rows.adversary == "none"]
    return networks.of((standard if len(standard) else rows).iloc[0])


def _start(curve: pd.DataFrame, networks: Networks) -> pd.Series | None:
    """Where a curve starts: at the dense network of its own recipe, not at one that stands in."""
    head = curve.iloc[0]
    network = networks.of(head)
    return network if network is not None and network["recipe"] == head.recipe else None


def _prior(family: Family, rows: pd.DataFrame) -> float:
    """Where IMP is told from random tickets; far below, it would press other curves together."""
    return float(rows.prior.mean()) if family.kind == "score" else math.nan


def _lines(
    rows: pd.DataFrame, looks: dict[tuple[str, bool], Look]
) -> list[tuple[str, Look, pd.DataFrame]]:
    groups = rows.groupby(["line", "strong"], sort=False)
    return [(line, looks[line, strong], part) for (line, strong), part in groups]


def _reference_labels(network: pd.Series | None, prior: float, rule: Win) -> list[_Label]:
    labels = []
    if network is not None and pd.notna(network["mean"]):
        mean = network["mean"]
        labels.append(_Label(mean, f"dense {words.spread(mean, network.sd)}", INK))
        labels.append(_Label(rule.ratio * mean, words.share_of_dense(rule), INK))
    if pd.notna(prior):
        labels.append(_Label(prior, f"question only {prior:.1f}", MUTED))
    return labels


def _small_multiples(family: Family, networks: Networks, rule: Win) -> Figure:
    panels = list(family.rows.groupby("panel", sort=False))
    across = min(_PANELS_A_ROW, len(panels))
    down = math.ceil(len(panels) / across)
    found = looks(family)
    handles = _legend(family, found, rule)
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
            place = (left / width, bottom / height, wide / width, high / height)
            axes = figure.add_axes(place)
            _panel(axes, str(title), rows, networks, rule, found, _prior(family, rows))
            if column == 0:
                axes.set_ylabel("score (%)")
            if i + across >= len(panels):
                axes.set_xlabel("sparsity (%)")
        figure.text(0.06 / width, 1 - 0.2 / height, family.model, size=11.5, weight="bold")
        figure.text(
            1 - 0.15 / width, 1 - 0.2 / height, family.schedule, ha="right", color=MUTED, size=9
        )
        figure.legend(
            handles=handles, ncols=2 * across, loc="upper left", frameon=False, fontsize=9,
            bbox_to_anchor=(0, 1 - 0.3 / height), handlelength=2.4, columnspacing=1.4,
            borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _legend(family: Family, found: dict[tuple[str, bool], Look], rule: Win) -> list[Line2D]:
    """One entry a line; in a family of transfers the task's own ticket is the thick one."""
    transfer = family.kind == "transfer"
    handles = []
    for (name, strong), look in found.items():
        if transfer and strong and (name, False) in found:
            continue
        handle = look.line()
        handle.set_label(name)
        handles.append(handle)
    if transfer:
        handles.append(Line2D((), (), color=MUTED, lw=2.6, label="thick: the task's own"))
    return [*handles, *reference_handles(rule, bool(pd.notna(_prior(family, family.rows))))]


def _panel(
    axes: Axes,
    title: str,
    rows: pd.DataFrame,
    networks: Networks,
    rule: Win,
    found: dict[tuple[str, bool], Look],
    prior: float,
) -> None:
    network = _reference(rows, networks)
    references(axes, network, prior, rule)
    for _, look, part in _lines(rows, found):
        curve(axes, part, _start(part, networks), look)
    x_axis(axes, rows)
    y_axis(axes, rows, network, prior)
    axes.tick_params(labelsize=8.5)
    axes.set_title(title, size=10, pad=5)
    if network is not None and network["n"]:
        dense = f"dense {words.spread(network['mean'], network.sd)}"
        axes.text(1, 1.03, dense, transform=axes.transAxes, ha="right", color=MUTED, size=8.5)
    if not rows.n.sum():
        axes.text(
            0.5, 0.5, "not scored yet", transform=axes.transAxes, ha="center", color=MUTED, size=9
        )


def _margin(axes: Axes, labels: Sequence[_Label]) -> None:
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
