"""Live loss curves of a running trial, best effort."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping

from orchestrator.tracking.experiment import Experiment, MetricPoint, first_line, open_experiment

log = logging.getLogger(__name__)

LIVE_DELAY_S = 3.0
"""Time from a trial's first point to the first request. Shorter trials need no live curve, and with
many of them MLflow could not keep up with the requests."""


class LiveRun:
    """Sends a worker's metrics under `live/`, on a background thread.

    The first error stops it with one warning: a trial never depends on MLflow. The projection later
    finds the run by its tag and writes the record's history next to `live/`, so no run exists
    twice.
    """

    def __init__(
        self, uri: str, experiment: str, key: str, name: str, *, interval_s: float = LIVE_DELAY_S
    ) -> None:
        """`key` is the key of the trial. Its run is found, or created with `name`, when the first
        points are sent."""
        self._uri, self._experiment, self._key, self._name = uri, experiment, key, name
        self._interval_s = interval_s
        self._points: queue.SimpleQueue[MetricPoint] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="mlflow-live", daemon=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values after an optimizer step. Never blocks, never raises."""
        if not self._failed:
            if self._thread.ident is None:
                self._thread.start()
            now = round(1000 * time.time())
            for name, value in values.items():
                self._points.put((f"live/{name}", float(value), step, now))

    def close(self, timeout: float) -> None:
        """Send the remaining points; wait at most `timeout` seconds."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        target: tuple[Experiment, str] | None = None
        last = False
        try:
            while not last:
                last = self._stop.wait(self._interval_s)
                points = list(_drain(self._points))
                if points and (target or not last):
                    experiment, run_id = target = target or self._open()
                    experiment.log(run_id, points, {}, {})
        except Exception as error:  # a failure of MLflow must not stop the trial
            self._failed = True
            log.warning(
                "MLflow at %s: %s; this trial has no live curves", self._uri, first_line(error)
            )

    def _open(self) -> tuple[Experiment, str]:
        experiment = open_experiment(self._uri, self._experiment)
        run = experiment.find_run(self._key)
        return experiment, (run or experiment.create_run(self._key, self._name, live=True)).id


def _drain(points: queue.SimpleQueue[MetricPoint]) -> Iterator[MetricPoint]:
    while not points.empty():
        yield points.get_nowait()
