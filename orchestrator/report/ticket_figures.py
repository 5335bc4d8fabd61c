"""Figures of the tickets themselves: what they share, and where in the network they prune."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator.report.style import MUTED, PAPER, RC

_SEQUENTIAL = LinearSegmentedColormap.from_list(
    "kept", ["#eef4f9", "#7fb2d9", "#0a5c99", "#06304f"]
)
_DIVERGING = LinearSegmentedColormap.from_list("pruned", ["#0b6eb2", "#f1f2f3", "#d8600e"])
_INCHES_A_LETTER = 0.08
"""Mean width of a letter at 9.5 pt, on the generous side."""
_DARK_TEXT, _LIGHT_TEXT = "#111820", "#fdfefe"  # on the cells' own colours: not the page's to swap


def overlap_figure(overlaps: pd.DataFrame, title: str) -> Figure:
    """Jaccard overlap of every pair (large), its chance level beneath (small), below the diagonal.

    `overlaps` as from `overlap.overlaps`, two to ten tickets.
    """
    names = list(dict.fromkeys([*overlaps.a, *overlaps.b]))
    rows, columns = names[1:], names[:-1]
    side = 0.52 if len(names) > 5 else 0.7
    with mpl.rc_context(RC):
        longest = max(map(len, names))
        left, bottom = 0.35 + _INCHES_A_LETTER * longest, 0.35 + 0.6 * _INCHES_A_LETTER * longest
        width, height = left + side * len(columns) + 0.35, bottom + side * len(rows) + 0.75
        figure = Figure(figsize=(max(width, 4.6), height))
        axes = _inches(figure, left, bottom, side * len(columns), side * len(rows))
        norm = Normalize(0, max(0.5, overlaps.jaccard.max()))
        for row in overlaps.itertuples():
            color = _SEQUENTIAL(norm(row.jaccard))
            _tile(axes, columns.index(row.a), rows.index(row.b), color)
            ink = _ink_on(color)
            x, y = columns.index(row.a) + 0.5, rows.index(row.b)
            axes.text(x, y + 0.42, f"{row.jaccard:.2f}", color=ink, ha="center", va="center",
                      size=10, weight="bold")  # fmt: skip
            axes.text(x, y + 0.74, f"{row.chance:.2f}", color=ink, ha="center", va="center",
                      size=7.5, alpha=0.85)  # fmt: skip
        _name_axes(axes, columns, rows)
        _titles(figure, axes, title, "share of kept weights in common (large), by chance (small)")
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
        left, bottom = 0.35 + _INCHES_A_LETTER * max(map(len, kinds)), 0.55
        height = 0.34 * len(kinds)
        width = left + wide * columns + 0.3
        figure = Figure(figsize=(max(width, 4.6), bottom + height + 0.75))
        axes = _inches(figure, left, bottom, wide * columns, height)
        reach = max(abs(means - means.median()).max(), 0.02)
        norm = Normalize(means.median() - reach, means.median() + reach)
        for (kind, column), sparsity in means.items():
            color = _DIVERGING(norm(sparsity))
            _tile(axes, int(column), kinds.index(kind), color)
            axes.text(
                column + 0.5, kinds.index(kind) + 0.5, f"{100 * sparsity:.0f}",
                ha="center", va="center", color=_ink_on(color), size=9.5 if wide > 0.42 else 8,
            )  # fmt: skip
        names = [str(int(depth)) for depth in depths] + ["top"] * (columns - last)
        _name_axes(axes, names, kinds)
        axes.set_xlabel("layer")
        _titles(figure, axes, title, "% of each tensor pruned, mean over these tickets")
    return figure


def _inches(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    full_width, full_height = figure.get_size_inches()
    return figure.add_axes(
        (left / full_width, bottom / full_height, width / full_width, height / full_height)
    )


def _tile(axes: Axes, x: int, y: int, color: tuple[float, ...]) -> None:
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor=PAPER, linewidth=1.5))


def _ink_on(color: tuple[float, ...]) -> str:
    """Dark or light text, by the relative luminance of WCAG 2."""
    red, green, blue = (channel**2.2 for channel in color[:3])
    return _DARK_TEXT if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.22 else _LIGHT_TEXT


def _name_axes(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xlim(0, len(columns))
    axes.set_ylim(len(rows), 0)
    long = max((len(name) for name in columns), default=0) > 4
    axes.set_xticks(
        [i + 0.5 for i in range(len(columns))], columns,
        rotation=35 if long else 0, ha="right" if long else "center", rotation_mode="anchor",
    )  # fmt: skip
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _titles(figure: Figure, axes: Axes, title: str, subtitle: str) -> None:
    top = axes.get_position().y1
    height = figure.get_size_inches()[1]
    figure.text(0.02, top + 0.46 / height, title, size=10.5, weight="bold", va="center")
    figure.text(0.02, top + 0.2 / height, subtitle, size=8.5, color=MUTED, va="center")
