"""Figures of the tickets themselves: what they share, and where in the network they prune."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from orchestrator.report.page.heatmap import (
    DIVERGING,
    INCHES_A_LETTER,
    SEQUENTIAL,
    inches,
    ink_on,
    name_axes,
    tile,
    titles,
)
from orchestrator.report.page.style import RC

_LEAST_RANGE = 0.25
"""Of the colours, from the chance level up: less is no difference to show."""


def overlap_figure(overlaps: pd.DataFrame, title: str) -> Figure:
    """Jaccard overlap of every pair (large), its chance level beneath (small), below the diagonal.

    `overlaps` as from `overlap.overlaps`, two to ten tickets.
    """
    names = list(dict.fromkeys([*overlaps.a, *overlaps.b]))
    rows, columns = names[1:], names[:-1]
    side = 0.52 if len(names) > 5 else 0.7
    with mpl.rc_context(RC):
        longest = max(map(len, names))
        left, bottom = 0.35 + INCHES_A_LETTER * longest, 0.35 + 0.6 * INCHES_A_LETTER * longest
        width, height = left + side * len(columns) + 0.35, bottom + side * len(rows) + 0.75
        figure = Figure(figsize=(max(width, 4.6), height))
        axes = inches(figure, left, bottom, side * len(columns), side * len(rows))
        least = min(overlaps.chance.min(), overlaps.jaccard.min())
        norm = Normalize(least, max(least + _LEAST_RANGE, overlaps.jaccard.max()))
        for row in overlaps.itertuples():
            color = SEQUENTIAL(norm(row.jaccard))
            tile(axes, columns.index(row.a), rows.index(row.b), color)
            ink = ink_on(color)
            x, y = columns.index(row.a) + 0.5, rows.index(row.b)
            axes.text(x, y + 0.42, f"{row.jaccard:.2f}", color=ink, ha="center", va="center",
                      size=10, weight="bold")  # fmt: skip
            axes.text(x, y + 0.74, f"{row.chance:.2f}", color=ink, ha="center", va="center",
                      size=7.5, alpha=0.85)  # fmt: skip
        name_axes(axes, columns, rows)
        titles(figure, axes, title, "share of kept weights in common (large), by chance (small)")
    return figure


def layers_figure(layers: pd.DataFrame, title: str) -> Figure:
    """Sparsity of every tensor, kinds of tensor down, depth across; the mean over `layers`' rows.

    The colour says how far a tensor is from the ticket's middle: orange is pruned more.
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
        left, bottom = 0.35 + INCHES_A_LETTER * max(map(len, kinds)), 0.55
        height = 0.34 * len(kinds)
        width = left + wide * columns + 0.3
        figure = Figure(figsize=(max(width, 4.6), bottom + height + 0.75))
        axes = inches(figure, left, bottom, wide * columns, height)
        reach = max(abs(means - means.median()).max(), 0.02)
        norm = Normalize(means.median() - reach, means.median() + reach)
        for (kind, column), sparsity in means.items():
            color = DIVERGING(norm(sparsity))
            tile(axes, int(column), kinds.index(kind), color)
            axes.text(
                column + 0.5, kinds.index(kind) + 0.5, f"{100 * sparsity:.0f}",
                ha="center", va="center", color=ink_on(color), size=9.5 if wide > 0.42 else 8,
            )  # fmt: skip
        names = [str(int(depth)) for depth in depths] + ["top"] * (columns - last)
        name_axes(axes, names, kinds)
        axes.set_xlabel("layer")
        titles(figure, axes, title, "% of each tensor pruned, mean over these tickets")
    return figure
