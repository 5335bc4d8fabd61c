"""A large sweep on many slots: 10,000 no-op trials in 2,000 lanes, on a Ray of 64 logical slots.

Stock Ray Tune with one Tune trial per node gets fewer trials of the same shape in the same run.
Rates and memory are taken between 15 % and 95 % of either side, so that the start of 64 processes
and what a driver holds anyway count for neither.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from orchestrator.schedule.frontier import Unit
from orchestrator.sweep.config import Placement
from tests.benchmarks.alone import alone
from tests.benchmarks.scheduling import Runner, dag, lanes, measure, stock
from tests.benchmarks.table import Row

SLOTS = 64
CHAINS, LEVELS = 2_000, 5
STOCK_CHAINS = 60
"""Stock Ray Tune loses its actors at every lull and does 3 to 4 of these trials a second."""


@dataclass(slots=True)
class Growth:
    """An Observer that writes down how time and this process's memory go with the trials done."""

    points: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, resident KiB) at each commit."""
    lanes: int = 0
    seconds: float = 0.0
    starts: int = 0

    def started(self, lane: list[Unit]) -> None:
        self.lanes += 1

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        self.points.append((time.perf_counter(), _resident_kib()))

    def begun(self, unit: Unit) -> None: ...
    def failed(self, unit: Unit) -> None: ...
    def ended(self, lane: list[Unit]) -> None: ...

    def rate(self) -> float:
        """Trials per second."""
        trials, seconds, _ = self._middle()
        return trials / seconds

    def slope(self) -> float:
        """KiB per trial."""
        trials, _, kib = self._middle()
        return kib / trials

    def _middle(self) -> tuple[int, float, int]:
        """Trials, seconds and KiB from 15 % to 95 %."""
        first, last = round(0.15 * len(self.points)), round(0.95 * len(self.points))
        (begin, before), (end, after) = self.points[first], self.points[last]
        return last - first, end - begin, after - before


def run() -> Iterator[Row]:
    ours = alone(_growth, partial(lanes, placement=Placement(slots=SLOTS, lane=1)), CHAINS)
    other = alone(_growth, partial(stock, slots=SLOTS), STOCK_CHAINS)
    trials, fewer = len(ours.points), len(other.points)
    name = "stock Ray Tune, one trial per node"
    ratio = ours.rate() / other.rate()
    yield Row(
        what=f"{trials:,} no-op trials in {ours.lanes:,} lanes, {SLOTS} slots on few cores",
        ours=f"{ours.seconds:.0f} s in all; {ours.rate():.0f} trials/s, {ours.starts} starts",
        other=f"{name}, {fewer}: {other.rate():.1f} trials/s, {other.starts} starts",
        ratio=f"{ratio:.1f}x",
        limit="≥ 3",
        met=ratio >= 3,
    )
    grown = (ours.points[-1][1] - ours.points[0][1]) / 1024
    yield Row(
        what="the same, memory of the driver",
        ours=f"{grown:+.0f} MiB in all; {ours.slope():.1f} KiB per trial",
        other=f"{name}: {other.slope():.1f} KiB per trial",
        ratio=f"{other.slope() / ours.slope():.1f}x",
        limit="≤ 10 KiB",
        met=ours.slope() <= 10,
    )


def _growth(runner: Runner, chains: int) -> Growth:
    growth = Growth()
    growth.seconds, growth.starts = measure(runner, dag(chains, 0, levels=LEVELS), SLOTS, growth)
    return growth


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4
