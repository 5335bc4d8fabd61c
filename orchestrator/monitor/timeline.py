"""The cluster of a run over time: nodes, slots for trials, and busy slots.

On a cluster with an autoscaler it shows whether the cluster grew while trials were pending, and
shrank when chains left nodes idle.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from orchestrator.ray_cluster.capacity import slots_on
from orchestrator.ray_cluster.node_watch import Node
from orchestrator.report.sections.capacity import utilization, write_capacity
from orchestrator.schedule.run_events import ChunkEnded, ChunkStarted, RunEvent
from orchestrator.sweep.config import Placement

MAX_SAMPLES = 20_000
"""Beyond this, every second sample is dropped, so the oldest part of a long run becomes coarse."""


@dataclass(frozen=True, slots=True)
class Sample:
    """State of the cluster from `seconds` (since the start of the run) until the next sample."""

    seconds: float
    nodes: int
    slots: int
    """Trials that fit on the nodes at once, limited by the sweep's `slots`."""
    busy: int
    """Slots with a running trial."""


class Timeline:
    """An `Observer` of a run that also observes the cluster's nodes."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._start = time.monotonic()
        self._samples: list[Sample] = []
        self._nodes = self._slots = self._busy = 0
        self._last_node_sample: Sample | None = None
        self._lock = threading.Lock()

    def observe_nodes(self, nodes: list[Node]) -> None:
        """Record the nodes that are up."""
        slots = slots_on(nodes, self._placement)
        with self._lock:
            self._nodes, self._slots = len(nodes), min(slots, self._placement.slots or slots)
            self._last_node_sample = self._sample()

    def on_event(self, event: RunEvent) -> None:
        match event:
            case ChunkStarted():
                self._add_busy(1)
            case ChunkEnded():
                self._add_busy(-1)

    def samples(self) -> pd.DataFrame:
        """One row per `Sample`, by its fields. The last row is the last observation of nodes."""
        with self._lock:
            samples = list(self._samples)
            last = self._last_node_sample
        if samples and last and last.seconds > samples[-1].seconds:
            samples.append(last)
        return pd.DataFrame([asdict(sample) for sample in samples])

    def write(self, folder: Path) -> str:
        """Write `capacity.csv` and `capacity.svg`, and return a summary.

        The summary reads `1 to 5 nodes, slots busy 74% of the time`. If nothing was run, nothing is
        written, and the summary is empty.
        """
        samples = self.samples()
        if samples.empty:
            return ""
        write_capacity(samples, folder)
        low, high = int(samples.nodes.min()), int(samples.nodes.max())
        nodes = f"{low} to {high} nodes" if low < high else f"{high} node{'s' * (high > 1)}"
        share = utilization(samples)
        return nodes if math.isnan(share) else f"{nodes}, slots busy {share:.0%} of the time"

    def _add_busy(self, change: int) -> None:
        with self._lock:
            self._busy += change
            self._sample()

    def _sample(self) -> Sample:
        seconds = round(time.monotonic() - self._start, 3)
        sample = Sample(seconds, self._nodes, self._slots, self._busy)
        if not self._samples or replace(self._samples[-1], seconds=seconds) != sample:
            self._samples.append(sample)
        if len(self._samples) > MAX_SAMPLES:
            del self._samples[1:-1:2]
        return sample
