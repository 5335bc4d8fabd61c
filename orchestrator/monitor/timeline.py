"""What a run's cluster was and did: nodes, places for trials, busy ones, from its start to its end.

On a cluster that scales by itself this shows whether it grew while trials waited, and shrank when
chains left its nodes idle.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from orchestrator.ray_cluster.capacity import places
from orchestrator.ray_cluster.node_watch import Node
from orchestrator.report.sections.capacity import use, write_capacity
from orchestrator.schedule.frontier import Unit
from orchestrator.sweep.config import Placement

MOST = 20_000
"""Samples kept. Past it every second one goes: the oldest parts of a long run become coarse."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How things stand from `seconds` (since the run began) until the next sample."""

    seconds: float
    nodes: int
    places: int
    """Trials that the nodes hold at once, and the sweep's `slots` allow."""
    busy: int
    """Places with a trial at work."""


class Timeline:
    """Follows the run as an Observer, and the nodes as it is shown them."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._begin = time.monotonic()
        self._samples: list[Sample] = []
        self._nodes = self._places = self._busy = 0
        self._seen: Sample | None = None
        self._lock = threading.Lock()

    def see(self, nodes: list[Node]) -> None:
        """These nodes are alive."""
        held = places(nodes, self._placement)
        with self._lock:
            self._nodes, self._places = len(nodes), min(held, self._placement.slots or held)
            self._seen = self._note()

    def started(self, lane: list[Unit]) -> None:
        self._change(1)

    def ended(self, lane: list[Unit]) -> None:
        self._change(-1)

    def begun(self, unit: Unit) -> None: ...
    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None: ...
    def failed(self, unit: Unit) -> None: ...

    def samples(self) -> pd.DataFrame:
        """One row per `Sample`, by its fields; the last one is when the nodes were last seen."""
        with self._lock:
            samples = list(self._samples)
        if samples and self._seen and self._seen.seconds > samples[-1].seconds:
            samples.append(self._seen)
        return pd.DataFrame([asdict(sample) for sample in samples])

    def write(self, folder: Path) -> str:
        """Write `capacity.csv` and `capacity.svg`, and tell it in a line: `1 to 5 nodes, their
        places busy 74 % of the time`. Nothing if nothing was run."""
        samples = self.samples()
        if samples.empty:
            return ""
        write_capacity(samples, folder)
        least, most = int(samples.nodes.min()), int(samples.nodes.max())
        nodes = f"{least} to {most} nodes" if least < most else f"{most} node{'s' * (most > 1)}"
        share = use(samples)
        return nodes if math.isnan(share) else f"{nodes}, their places busy {share:.0%} of the time"

    def _change(self, by: int) -> None:
        with self._lock:
            self._busy += by
            self._note()

    def _note(self) -> Sample:
        seconds = round(time.monotonic() - self._begin, 3)
        now = Sample(seconds, self._nodes, self._places, self._busy)
        if not self._samples or replace(self._samples[-1], seconds=seconds) != now:
            self._samples.append(now)
        if len(self._samples) > MOST:
            del self._samples[1:-1:2]
        return now
