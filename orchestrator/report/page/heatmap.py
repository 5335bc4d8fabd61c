"""Shared parts of heat maps: tiles, text on them, tick names, titles."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator.report.page.style import BACKGROUND, MUTED

SEQUENTIAL = LinearSegmentedColormap.from_list("kept", ["#eef4f9", "#7fb2d9", "#0a5c99", "#06304f"])
DIVERGING = LinearSegmentedColormap.from_list("pruned", ["#0b6eb2", "#f1f2f3", "#d8600e"])
INCHES_PER_LETTER = 0.08
"""Mean width of a letter at 9.5 pt, rounded up generously."""
_DARK_TEXT, _LIGHT_TEXT = "#111820", "#fdfefe"  # on coloured tiles: the page must not replace them


def add_axes_inches(
    figure: Figure, left: float, bottom: float, width: float, height: float
) -> Axes:
    """Add axes at a position given in inches."""
    full_width, full_height = figure.get_size_inches()
    return figure.add_axes(
        (left / full_width, bottom / full_height, width / full_width, height / full_height)
    )


def draw_tile(axes: Axes, x: int, y: int, color: tuple[float, ...]) -> None:
    """Draw a coloured cell with its corner at (x, y)."""
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor=BACKGROUND, linewidth=1.5))


def text_color(color: tuple[float, ...]) -> str:
    """Return dark or light text for a background, by the relative luminance of WCAG 2."""
    red, green, blue = (channel**2.2 for channel in color[:3])
    return _DARK_TEXT if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.22 else _LIGHT_TEXT


def set_tick_names(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Label columns and rows; long column names are rotated."""
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


def add_titles(figure: Figure, axes: Axes, title: str, subtitle: str) -> None:
    """Write a title and a subtitle above the axes."""
    top = axes.get_position().y1
    height = figure.get_size_inches()[1]
    figure.text(0.02, top + 0.46 / height, title, size=10.5, weight="bold", va="center")
    figure.text(0.02, top + 0.2 / height, subtitle, size=8.5, color=MUTED, va="center")
