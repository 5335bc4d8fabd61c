"""Style shared by all figures: colours that colour-blind readers can tell apart, and type."""

from __future__ import annotations

from typing import Any

from orchestrator.sources.colors import HUES as HUES
from orchestrator.sources.colors import INK as INK
from orchestrator.sources.colors import MUTED as MUTED

GRID_COLOR = "#e3e7eb"
BAND = "#cfd6dd"
BACKGROUND = "#ffffff"
"""These three, `INK` and `MUTED` are variables of the page's style sheet, which replaces them in
dark mode."""

RC: dict[Any, Any] = {
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": BACKGROUND,
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
    "grid.color": GRID_COLOR,
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
    "svg.fonttype": "none",  # keep text as text: small, searchable, in the page's font
    "svg.hashsalt": "sweepstakes",  # the same data, the same bytes
    "savefig.dpi": 200,
}
