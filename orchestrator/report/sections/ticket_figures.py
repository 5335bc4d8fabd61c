"""Figures of the tickets themselves: their overlap, and where in the network they prune."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from orchestrator.report.page.heatmap import (
    DIVERGING,
    INCHES_PER_LETTER,
    SEQUENTIAL,
    add_axes_inches,
    add_titles,
    draw_tile,
    set_tick_names,
    text_color,
)
from orchestrator.report.page.style import RC

_MIN_COLOR_RANGE = 0.25
"""Minimum range of overlaps that the colours span, so that small differences do not look large."""


def overlap_figure(overlaps: pd.DataFrame, title: str) -> Figure:
    """Draw the Jaccard overlap of every pair (large) and its chance level (small).

    `overlaps` comes from `overlap.overlaps`. Only the half below the diagonal is drawn.
    """
    names = list(dict.fromkeys([*overlaps.a, *overlaps.b]))
    rows, columns = names[1:], names[:-1]
    side = 0.52 if len(names) > 5 else 0.7
    with mpl.rc_context(RC):
        longest = max(map(len, names))
        left, bottom = 0.35 + INCHES_PER_LETTER * longest, 0.35 + 0.6 * INCHES_PER_LETTER * longest
        width, height = left + side * len(columns) + 0.35, bottom + side * len(rows) + 0.75
        figure = Figure(figsize=(max(width, 4.6), height))
        axes = add_axes_inches(figure, left, bottom, side * len(columns), side * len(rows))
        lowest = min(overlaps.chance.min(), overlaps.jaccard.min())
        norm = Normalize(lowest, max(lowest + _MIN_COLOR_RANGE, overlaps.jaccard.max()))
        for row in overlaps.itertuples():
            color = SEQUENTIAL(norm(row.jaccard))
            draw_tile(axes, columns.index(row.a), rows.index(row.b), color)
            ink = text_color(color)
            x, y = columns.index(row.a) + 0.5, rows.index(row.b)
            axes.text(x, y + 0.42, f"{row.jaccard:.2f}", color=ink, ha="center", va="center",
                      size=10, weight="bold")  # fmt: skip
            axes.text(x, y + 0.74, f"{row.chance:.2f}", color=ink, ha="center", va="center",
                      size=7.5, alpha=0.85)  # fmt: skip
        set_tick_names(axes, columns, rows)
        add_titles(
            figure,
            axes,
            title,
            "kept weights in common (large), expected by chance (small)",
        )
    return figure


def layers_figure(layers: pd.DataFrame, title: str) -> Figure:
    """Draw the mean sparsity of every tensor: kinds of tensors down, depth across.

    The colour shows the difference from the median tensor: orange is pruned more.
    """
    depths = sorted(layers.depth.dropna().unique())
    last = len(depths)
    table = layers.assign(
        column=layers.depth.map({d: i for i, d in enumerate(depths)}).fillna(last)
    )
    means = table.groupby(["kind", "column"], sort=False).sparsity.mean()
    kinds = list(dict.fromkeys(kind for kind, _ in means.index))
    columns = last + int(layers.depth.isna().any())
    with mpl.rc_context(RC):
        wide = min(1.0, 6.0 / max(columns, 1))
        left, bottom = 0.35 + INCHES_PER_LETTER * max(map(len, kinds)), 0.55
        height = 0.34 * len(kinds)
        width = left + wide * columns + 0.3
        figure = Figure(figsize=(max(width, 4.6), bottom + height + 0.75))
        axes = add_axes_inches(figure, left, bottom, wide * columns, height)
        reach = max(abs(means - means.median()).max(), 0.02)
        norm = Normalize(means.median() - reach, means.median() + reach)
        for (kind, column), sparsity in means.items():
            color = DIVERGING(norm(sparsity))
            draw_tile(axes, int(column), kinds.index(kind), color)
            axes.text(
                column + 0.5, kinds.index(kind) + 0.5, f"{100 * sparsity:.0f}",
                ha="center", va="center", color=text_color(color), size=9.5 if wide > 0.42 else 8,
            )  # fmt: skip
        names = [str(int(depth)) for depth in depths] + ["top"] * (columns - last)
        set_tick_names(axes, names, kinds)
        axes.set_xlabel("layer")
        add_titles(figure, axes, title, "% of each tensor pruned, mean over these tickets")
    return figure
