"""Heat maps of the transfer matrix: a large one of one sparsity, small ones of all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from orchestrator.report.data import formatting
from orchestrator.report.page import layout
from orchestrator.report.page.heatmap import (
    INCHES_PER_LETTER,
    SEQUENTIAL,
    add_axes_inches,
    add_titles,
    draw_tile,
    set_tick_names,
    text_color,
)
from orchestrator.report.page.style import GRID_COLOR, HUES, MUTED, RC
from orchestrator.report.sections.transfer import is_control, ticket_name

_SIDE, _SMALL_SIDE = (0.74, 0.46), 0.2
_MAPS_PER_ROW = 5


def matrix_figure(matrix: pd.DataFrame, tickets: Sequence[str], level: int, title: str) -> Figure:
    """Draw one level: in each tile the score in percent of the dense score, and the score itself.

    The targets' own tickets are framed.
    """
    at_level = matrix[matrix.level == level]
    columns = layout.score_columns(matrix)
    names = layout.column_names(columns)
    with mpl.rc_context(RC):
        left = 0.35 + INCHES_PER_LETTER * max(map(len, tickets))
        bottom = 0.35 + 0.6 * INCHES_PER_LETTER * max(map(len, names))
        wide, high = _SIDE[0] * len(columns), _SIDE[1] * len(tickets)
        figure = Figure(figsize=(max(left + wide + 0.3, 4.6), bottom + high + 0.75))
        axes = add_axes_inches(figure, left, bottom, wide, high)
        _tiles(axes, at_level, tickets, columns, _norm(matrix), texts=True)
        set_tick_names(axes, names, [*map(ticket_name, tickets)])
        axes.set_ylabel("ticket of")
        add_titles(
            figure, axes, title, "% of the dense score (large), score (small); framed: own ticket"
        )
    return figure


def levels_figure(matrix: pd.DataFrame, tickets: Sequence[str], title: str) -> Figure:
    """Draw all levels as small heat maps in the colours of `matrix_figure`."""
    columns = layout.score_columns(matrix)
    names = layout.column_names(columns)
    sparsities = matrix.drop_duplicates("level").set_index("level").sparsity.sort_index()
    across = min(_MAPS_PER_ROW, len(sparsities))
    down = math.ceil(len(sparsities) / across)
    wide, high = _SMALL_SIDE * len(columns), _SMALL_SIDE * len(tickets)
    left = 0.3 + 0.9 * INCHES_PER_LETTER * max(map(len, tickets))
    bottom = 0.3 + 0.75 * INCHES_PER_LETTER * max(map(len, names))
    gap_x, gap_y, top = 0.25, 0.35, 0.9
    width = max(left + across * (wide + gap_x), 4.6)
    height = top + down * (high + gap_y) - gap_y + bottom
    with mpl.rc_context(RC):
        figure = Figure(figsize=(width, height))
        for i, (level, sparsity) in enumerate(sparsities.items()):
            row, column = divmod(i, across)
            y = height - top - high - row * (high + gap_y)
            axes = add_axes_inches(figure, left + column * (wide + gap_x), y, wide, high)
            at_level = matrix[matrix.level == level]
            _tiles(axes, at_level, tickets, columns, _norm(matrix), texts=False)
            bottom_row = i + across >= len(sparsities)
            set_tick_names(
                axes,
                names if bottom_row else [""] * len(names),
                [*map(ticket_name, tickets)] if not column else [""] * len(tickets),
            )
            axes.tick_params(labelsize=8)
            axes.set_title(formatting.percent(sparsity), size=9, pad=4, weight="normal")
        figure.text(0.02, 1 - 0.2 / height, title, size=10.5, weight="bold", va="center")
        figure.text(
            0.02, 1 - 0.45 / height, "darker is lower, in percent of the dense score",
            size=8.5, color=MUTED, va="center",
        )  # fmt: skip
    return figure


def _norm(matrix: pd.DataFrame) -> Normalize:
    """Scale colours from light, at 100 % of the dense score, to dark, at the lowest ticket.

    Controls are left out: they score so much lower that other differences would fade.
    """
    lowest = matrix[~is_control(matrix.ticket)].of_dense.min()
    return Normalize(-100, -min(lowest, 95) if pd.notna(lowest) else -95, clip=True)


def _tiles(
    axes: Axes,
    at_level: pd.DataFrame,
    tickets: Sequence[str],
    columns: Sequence[tuple[str, str]],
    norm: Normalize,
    *,
    texts: bool,
) -> None:
    rows = {(row.ticket, row.task, row.metric): row for row in at_level.itertuples()}
    for y, ticket in enumerate(tickets):
        for x, column in enumerate(columns):
            row = rows.get((ticket, *column))
            if row is None or pd.isna(row.of_dense):
                _missing(axes, x, y, texts=texts)
                continue
            color = SEQUENTIAL(norm(-row.of_dense))
            draw_tile(axes, x, y, color)
            if texts:
                ink = text_color(color)
                axes.text(x + 0.5, y + 0.4, f"{row.of_dense:.1f}", color=ink, ha="center",
                          va="center", size=10, weight="bold")  # fmt: skip
                axes.text(x + 0.5, y + 0.74, f"{row.mean:.2f}", color=ink, ha="center",
                          va="center", size=7.5, alpha=0.85)  # fmt: skip
            if ticket == column[0]:
                frame = Rectangle((x + 0.03, y + 0.03), 0.94, 0.94, fill=False, edgecolor=HUES[1])
                frame.set(linewidth=2 if texts else 1.1, zorder=3)
                axes.add_patch(frame)


def _missing(axes: Axes, x: int, y: int, *, texts: bool) -> None:
    draw_tile(axes, x, y, (0, 0, 0, 0))
    frame = Rectangle(
        (x + 0.06, y + 0.06), 0.88, 0.88, fill=False, edgecolor=GRID_COLOR, linewidth=0.8
    )
    axes.add_patch(frame)
    if texts:
        axes.text(
            x + 0.5, y + 0.5, formatting.MISSING, color=MUTED, ha="center", va="center", size=9.5
        )
