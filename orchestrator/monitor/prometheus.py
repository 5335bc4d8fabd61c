"""A run's metrics where Ray's own are: on each node's metrics port, for Prometheus.

`ray_sweepstakes_trials` by sweep and state; `ray_sweepstakes_trial_seconds` by sweep, model and
task. They are the driver's, so they are scraped from its node, and go when it ends.
"""

from __future__ import annotations

import time

from ray.util.metrics import Gauge, Histogram

from orchestrator.monitor.board import Board, Mark
from orchestrator.schedule.frontier import Unit

STATES = {
    Mark.DONE: "done",
    Mark.FAILED: "failed",
    Mark.BLOCKED: "blocked",
    Mark.OPEN: "queued",
    Mark.RUNNING: "running",
}
BOUNDARIES_S = (1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000, 86400)
"""From no-op trials to a day of pre-training."""


class Metrics:
    """An `Observer` that tells Ray how its board stands; entered last of those that change it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._told: dict[Mark, int] = {}
        self._begun: dict[str, float] = {}
        self._trials = Gauge(
            "sweepstakes_trials",
            description="Training runs of the sweep by state.",
            tag_keys=("sweep", "state"),
        )
        self._seconds = Histogram(
            "sweepstakes_trial_seconds",
            # Ray hands on what bucket a value fell in, so the sum is of the buckets' middles.
            description="Seconds from the start of a unit of work on its worker to its commit.",
            boundaries=list(BOUNDARIES_S),
            tag_keys=("sweep", "model", "task"),
        )

    def started(self, lane: list[Unit]) -> None: ...

    def begun(self, unit: Unit) -> None:
        self._begun[unit.head] = time.monotonic()
        self._tell()

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        begun = self._begun.pop(unit.head, None)
        if begun is not None:  # else another run has done it
            tags = {"sweep": self._board.plan.name, "model": unit.model, "task": unit.task}
            self._seconds.observe(time.monotonic() - begun, tags)
        self._tell()

    def failed(self, unit: Unit) -> None:
        self._tell()

    def ended(self, lane: list[Unit]) -> None:
        for unit in lane:
            self._begun.pop(unit.head, None)
        self._tell()

    def _tell(self) -> None:
        for mark, count in self._board.counts().items():
            if self._told.get(mark) != count:
                self._told[mark] = count
                self._trials.set(count, {"sweep": self._board.plan.name, "state": STATES[mark]})
