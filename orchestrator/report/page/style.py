"""The look shared by all figures: inks, hues that colour-blind readers can tell apart, type."""

from __future__ import annotations

from typing import Any

INK = "#1b2733"
MUTED = "#66727f"
GRID = "#e3e7eb"
BAND = "#cfd6dd"
PAPER = "#ffffff"
"""These five are named in the page's style sheet, which swaps them in dark mode."""

HUES = ("#0a6fb3", "#d9610f", "#0b9070", "#b85a94", "#8a6d00", "#4aa3d8", "#7a4fb5", "#5e6b78")
"""After Okabe and Ito (2008), darkened to 3:1 against white; the page lightens them in the dark."""

RC: dict[Any, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a label is a `$`
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture everywhere
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "sweepstakes",  # the same data, the same bytes
    "savefig.dpi": 200,
}
