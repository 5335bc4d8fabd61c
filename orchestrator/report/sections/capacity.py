"""A run's cluster over time: its nodes, the places for trials on them, and the busy ones."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from orchestrator.files import replace
from orchestrator.report.page.page import svg_bytes
from orchestrator.report.page.style import BAND, GRID, HUES, INK, MUTED, RC

_UNITS = ((3 * 86400, 86400, "days"), (3 * 3600, 3600, "hours"), (180, 60, "minutes"))


def write_capacity(samples: pd.DataFrame, folder: Path) -> Path:
    """Write `capacity.csv` and the figure `capacity.svg`, whose path is returned.

    `samples` has the columns `seconds` (since the run began, ascending), `nodes`, `places` and
    `busy`; a row holds until the next one, and the last one ends the run.
    """
    replace(folder / "capacity.csv", samples.to_csv(index=False).encode())
    return replace(folder / "capacity.svg", svg_bytes(capacity_figure(samples)))


def use(samples: pd.DataFrame) -> float:
    """The share of the places' time in which a trial had them; NaN without any."""
    lasted = -samples.seconds.diff(-1)
    there = float((samples.places * lasted).sum())
    return float((samples.busy * lasted).sum()) / there if there else float("nan")


def capacity_figure(samples: pd.DataFrame) -> Figure:
    """Places and busy ones above, nodes below, over one time axis."""
    whole = samples.seconds.iloc[-1]
    scale, unit = next(((s, name) for most, s, name in _UNITS if whole > most), (1, "seconds"))
    time = samples.seconds / scale
    with mpl.rc_context(RC):
        figure = Figure(figsize=(6.4, 3.9))
        above, below = figure.subplots(
            2, 1, sharex=True, height_ratios=(3, 1),
            gridspec_kw={"left": 0.1, "right": 0.97, "top": 0.86, "bottom": 0.13, "hspace": 0.16},
        )  # fmt: skip
        _area(above, time, samples.places, BAND, "there")
        _area(above, time, samples.busy, HUES[0], "busy")
        above.set_ylabel("places for trials")
        below.step(time, samples.nodes, where="post", color=INK, lw=1.4)
        below.set_ylabel("nodes")
        below.set_xlabel(f"{unit} since the run began")
        above.set_xlim(0, whole / scale or 1)
        for axes in (above, below):
            axes.set_ylim(0, None)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axes.grid(axis="y", color=GRID)
            axes.tick_params(length=0)
        figure.legend(loc="upper right", ncols=2, frameon=False, bbox_to_anchor=(0.985, 0.985))
        figure.text(0.1, 0.925, "The cluster during the run", size=11, weight="bold")
        share = use(samples)
        if share == share:
            told = f"trials had {share:.0%} of the time of its places"
            figure.text(0.1, 0.877, told, size=8.5, color=MUTED)
    return figure


def _area(axes: Axes, time: pd.Series, count: pd.Series, color: str, label: str) -> None:
    axes.fill_between(time, count, step="post", color=color, lw=0, label=label)
