"""Metrics of a run, exported through Ray: on each node's metrics port, for Prometheus.

`ray_sweepstakes_trials` by sweep and state; `ray_sweepstakes_trial_seconds` by sweep, model and
task. The driver reports them, so they are scraped from its node and disappear when it exits.
"""

from __future__ import annotations

import time

from ray.util.metrics import Gauge, Histogram

from orchestrator.monitor.board import Board, TrialState
from orchestrator.schedule.frontier import WorkItem

STATE_LABELS = {
    TrialState.DONE: "done",
    TrialState.FAILED: "failed",
    TrialState.BLOCKED: "blocked",
    TrialState.PENDING: "queued",
    TrialState.RUNNING: "running",
}
BOUNDARIES_S = (1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000, 86400)
"""From no-op trials to a day of pre-training."""


class PrometheusObserver:
    """An `Observer` that reports the counts of a board. It must follow observers that update it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._reported: dict[TrialState, int] = {}
        self._started_at: dict[str, float] = {}
        self._trials = Gauge(
            "sweepstakes_trials",
            description="Training runs of the sweep by state.",
            tag_keys=("sweep", "state"),
        )
        self._seconds = Histogram(
            "sweepstakes_trial_seconds",
            # Ray exports only the bucket of each value, so the sum adds up midpoints of buckets.
            description="Seconds from the start of a work item on its worker to its commit.",
            boundaries=list(BOUNDARIES_S),
            tag_keys=("sweep", "model", "task"),
        )

    def chunk_started(self, chunk: list[WorkItem]) -> None: ...

    def item_started(self, item: WorkItem) -> None:
        self._started_at[item.key] = time.monotonic()
        self._report()

    def item_committed(self, item: WorkItem, keys: list[str], score: float | None) -> None:
        started_at = self._started_at.pop(item.key, None)
        if started_at is not None:  # otherwise another run has executed it
            tags = {"sweep": self._board.plan.name, "model": item.model, "task": item.task}
            self._seconds.observe(time.monotonic() - started_at, tags)
        self._report()

    def item_failed(self, item: WorkItem) -> None:
        self._report()

    def chunk_ended(self, chunk: list[WorkItem]) -> None:
        for item in chunk:
            self._started_at.pop(item.key, None)
        self._report()

    def _report(self) -> None:
        for state, count in self._board.counts().items():
            if self._reported.get(state) != count:
                self._reported[state] = count
                tags = {"sweep": self._board.plan.name, "state": STATE_LABELS[state]}
                self._trials.set(count, tags)
