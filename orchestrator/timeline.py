"""What a run's cluster was and did: nodes, places for trials, busy ones, from its start to its end.

On a cluster that scales by itself this shows whether it grew while trials waited, and shrank when
chains left its nodes idle.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pandas as pd
import ray
from ray.exceptions import RayError

from orchestrator.config import Placement
from orchestrator.frontier import Unit
from orchestrator.places import places
from orchestrator.report.capacity import use, write_capacity

PERIOD_S = 1.0
"""Between two looks at the nodes; a look costs the driver some milliseconds on a thread."""
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
    """Follows the run as the searcher's Observer, and the nodes while it is entered, for which Ray
    must be up."""

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._begin = time.monotonic()
        self._samples: list[Sample] = []
        self._nodes = self._places = self._busy = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="timeline", daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._watcher.join()
        with self._lock:
            self._samples.append(self._now())

    def started(self, lane: list[Unit]) -> None:
        self._change(1)

    def ended(self, lane: list[Unit]) -> None:
        self._change(-1)

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None: ...
    def failed(self, unit: Unit) -> None: ...

    def samples(self) -> pd.DataFrame:
        """One row per `Sample`, by its fields."""
        with self._lock:
            return pd.DataFrame([asdict(sample) for sample in self._samples])

    def write(self, folder: Path) -> str:
        """Write `capacity.csv` and `capacity.svg`, and tell it in a line: `1 to 5 nodes, their
        places busy 74 % of the time`. Nothing if nothing was run."""
        samples = self.samples()
        if samples.empty:
            return ""
        write_capacity(samples, folder)
        least, most = int(samples.nodes.min()), int(samples.nodes.max())
        nodes = f"{least} to {most} nodes" if least < most else f"{most} node{'s' * (most > 1)}"
        return f"{nodes}, their places busy {use(samples):.0%} of the time"

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._look()

    def _look(self) -> None:
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        except RayError:  # the head is being restarted; what was there is taken to be there
            return
        held = places(nodes, self._placement)
        with self._lock:
            self._nodes, self._places = len(nodes), min(held, self._placement.slots or held)
            self._note()

    def _change(self, by: int) -> None:
        with self._lock:
            self._busy += by
            self._note()

    def _note(self) -> None:
        now = self._now()
        if self._samples and asdict(self._samples[-1]) | {"seconds": now.seconds} == asdict(now):
            return
        self._samples.append(now)
        if len(self._samples) > MOST:
            del self._samples[1:-1:2]

    def _now(self) -> Sample:
        seconds = round(time.monotonic() - self._begin, 3)
        return Sample(seconds, self._nodes, self._places, self._busy)
