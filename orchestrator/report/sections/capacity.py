"""The cluster of a run over time: its nodes, their trial slots, and the busy slots."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.files import write_atomic
from orchestrator.report.page.page import svg_bytes
from orchestrator.report.page.style import BAND, GRID_COLOR, HUES, INK, MUTED, RC

_TIME_UNITS = ((3 * 86400, 86400, "days"), (3 * 3600, 3600, "hours"), (180, 60, "minutes"))


def write_capacity(samples: pd.DataFrame, folder: Path) -> Path:
    """Write `capacity.csv` and the figure `capacity.svg`; return the path of the figure.

    `samples` has the columns `seconds` (since the run began, ascending), `nodes`, `slots` and
    `busy`. A row applies until the next one; the last row marks the end of the run.
    """
    write_atomic(folder / "capacity.csv", samples.to_csv(index=False).encode())
    return write_atomic(folder / "capacity.svg", svg_bytes(capacity_figure(samples)))


def utilization(samples: pd.DataFrame) -> float:
    """Return busy slot-seconds as a share of all slot-seconds; NaN if there were no slots."""
    lasted = -samples.seconds.diff(-1)
    available = float((samples.slots * lasted).sum())
    return float((samples.busy * lasted).sum()) / available if available else float("nan")


def capacity_figure(samples: pd.DataFrame) -> Figure:
    """Draw available and busy slots above, nodes below, over one time axis."""
    duration = samples.seconds.iloc[-1]
    units = ((scale, name) for above_s, scale, name in _TIME_UNITS if duration > above_s)
    scale, unit = next(units, (1, "seconds"))
    time = samples.seconds / scale
    with mpl.rc_context(RC):
        figure = Figure(figsize=(6.4, 3.9))
        above, below = figure.subplots(
            2, 1, sharex=True, height_ratios=(3, 1),
            gridspec_kw={"left": 0.1, "right": 0.97, "top": 0.86, "bottom": 0.13, "hspace": 0.16},
        )  # fmt: skip
        _area(above, time, samples.slots, BAND, "available")
        _area(above, time, samples.busy, HUES[0], "busy")
        above.set_ylabel("trial slots")
        below.step(time, samples.nodes, where="post", color=INK, lw=1.4)
        below.set_ylabel("nodes")
        below.set_xlabel(f"{unit} since the run began")
        above.set_xlim(0, duration / scale or 1)
        for axes in (above, below):
            axes.set_ylim(0, None)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axes.grid(axis="y", color=GRID_COLOR)
            axes.tick_params(length=0)
        figure.legend(loc="upper right", ncols=2, frameon=False, bbox_to_anchor=(0.985, 0.985))
        figure.text(0.1, 0.925, "The cluster during the run", size=11, weight="bold")
        share = utilization(samples)
        if share == share:
            subtitle = f"trials used {share:.0%} of the available slot time"
            figure.text(0.1, 0.877, subtitle, size=8.5, color=MUTED)
    return figure


def _area(axes: Axes, time: pd.Series, count: pd.Series, color: str, label: str) -> None:
    axes.fill_between(time, count, step="post", color=color, lw=0, label=label)
