"""A large sweep on many slots: 10,000 no-op trials in 2,000 chunks, on a Ray of 64 logical slots.

Stock Ray Tune with one Tune trial per node runs fewer trials of the same shape. Rates and memory of
both are measured between 15 % and 95 % of their trials, which excludes the start of 64 processes
and the driver's base memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from orchestrator.schedule.run_events import ChunkStarted, ItemCommitted, RunEvent
from orchestrator.sweep.config import Placement
from tests.benchmarks.alone import alone
from tests.benchmarks.scheduling import Runner, dag, run_driver, run_tune, time_run
from tests.benchmarks.size import sized
from tests.benchmarks.table import Row

SLOTS = sized(64, smoke=2)
CHAINS, LEVELS = sized(2_000, smoke=20), 5
STOCK_CHAINS = sized(60, smoke=4)
"""Stock Ray Tune loses its actors whenever none of its trials is ready, and runs 3 to 4 of these
trials per second."""


@dataclass(slots=True)
class MemoryObserver:
    """An Observer that records the time and this process's memory at each committed trial."""

    points: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, resident KiB) at each commit."""
    chunks: int = 0
    seconds: float = 0.0
    starts: int = 0

    def on_event(self, event: RunEvent) -> None:
        match event:
            case ChunkStarted():
                self.chunks += 1
            case ItemCommitted():
                self.points.append((time.perf_counter(), _resident_kib()))

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
    ours = alone(
        _observe, partial(run_driver, placement=Placement(slots=SLOTS, chunk_size=1)), CHAINS
    )
    other = alone(_observe, partial(run_tune, slots=SLOTS), STOCK_CHAINS)
    trials, other_trials = len(ours.points), len(other.points)
    name = "stock Ray Tune, one trial per node"
    ratio = ours.rate() / other.rate()
    yield Row(
        what=f"{trials:,} no-op trials in {ours.chunks:,} chunks, {SLOTS} slots on few cores",
        ours=f"{ours.seconds:.0f} s in all; {ours.rate():.0f} trials/s, {ours.starts} starts",
        other=f"{name}, {other_trials}: {other.rate():.1f} trials/s, {other.starts} starts",
        ratio=f"{ratio:.1f}x",
        limit="≥ 3",
        met=ratio >= 3,
    )
    slope = max(ours.slope(), 0.1)  # KiB; a few trials may need no new page
    growth_mib = (ours.points[-1][1] - ours.points[0][1]) / 1024
    yield Row(
        what="the same, memory of the driver",
        ours=f"{growth_mib:+.0f} MiB in all; {ours.slope():.1f} KiB per trial",
        other=f"{name}: {other.slope():.1f} KiB per trial",
        ratio=f"{other.slope() / slope:.1f}x",
        limit="≤ 10 KiB",
        met=ours.slope() <= 10,
    )


def _observe(runner: Runner, chains: int) -> MemoryObserver:
    observer = MemoryObserver()
    observer.seconds, observer.starts = time_run(
        runner, dag(chains, 0, levels=LEVELS), SLOTS, observer
    )
    return observer


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4
