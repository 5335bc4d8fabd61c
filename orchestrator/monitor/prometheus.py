"""Metrics of a run, exported through Ray: on each node's metrics port, for Prometheus.

`ray_sweepstakes_trials` by sweep and state; `ray_sweepstakes_trial_seconds` by sweep, model and
task. The driver reports them, so they are scraped from its node and disappear when it exits.
"""

from __future__ import annotations

import time

from ray.util.metrics import Gauge, Histogram

from orchestrator.monitor.board import Board, TrialState
from orchestrator.schedule.run_events import ChunkEnded, ItemCommitted, ItemStarted, RunEvent

STATE_LABELS = {
    TrialState.DONE: "done",
    TrialState.FAILED: "failed",
    TrialState.BLOCKED: "blocked",
    TrialState.PENDING: "queued",
    TrialState.RUNNING: "running",
    TrialState.SKIPPED: "skipped",
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

    def on_event(self, event: RunEvent) -> None:
        match event:
            case ItemStarted(item=item):
                self._started_at[item.key] = time.monotonic()
            case ItemCommitted(item=item):
                started_at = self._started_at.pop(item.key, None)
                if started_at is not None:  # otherwise another run has executed it
                    tags = {"sweep": self._board.plan.name, "model": item.model, "task": item.task}
                    self._seconds.observe(time.monotonic() - started_at, tags)
            case ChunkEnded(items=items):
                for item in items:
                    self._started_at.pop(item.key, None)
        self._report()

    def _report(self) -> None:
        for state, count in self._board.counts().items():
            if self._reported.get(state) != count:
                self._reported[state] = count
                tags = {"sweep": self._board.plan.name, "state": STATE_LABELS[state]}
                self._trials.set(count, tags)
