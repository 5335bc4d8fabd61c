"""Loss curves while a trial trains, best effort."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping

from orchestrator.tracking.experiment import Experiment, Point, connect, first_line

log = logging.getLogger(__name__)

FIRST_AFTER_S = 3.0
"""Nothing is sent before a trial has gone on for so long after its first point: a shorter one needs
no live curve, and of many short ones MLflow would take the calls more slowly than they come."""


class LiveRun:
    """Sends a worker's metrics under `live/`, from a thread of its own.

    The first error ends it with one warning: a trial never depends on MLflow. The projection takes
    the run over by its tag and writes the record's own history beside `live/`, so that nothing is
    there twice.
    """

    def __init__(
        self, uri: str, experiment: str, key: str, name: str, *, every_s: float = FIRST_AFTER_S
    ) -> None:
        """`key` is the trial's; its run is found, or made as `name`, when there are first points to
        send."""
        self._uri, self._experiment, self._key, self._name = uri, experiment, key, name
        self._every_s = every_s
        self._points: queue.SimpleQueue[Point] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._dead = False
        self._thread = threading.Thread(target=self._run, name="mlflow-live", daemon=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values after an optimizer step; never blocks, never raises."""
        if not self._dead:
            if self._thread.ident is None:
                self._thread.start()
            now = round(1000 * time.time())
            for name, value in values.items():
                self._points.put((f"live/{name}", float(value), step, now))

    def close(self, timeout: float) -> None:
        """Send the rest, waiting at most `timeout` seconds."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        target: tuple[Experiment, str] | None = None
        last = False
        try:
            while not last:
                last = self._stop.wait(self._every_s)
                points = list(_drain(self._points))
                if points and (target or not last):
                    experiment, run_id = target = target or self._open()
                    experiment.log(run_id, points, {}, {})
        except Exception as error:  # whatever MLflow does, the trial goes on
            self._dead = True
            log.warning("MLflow at %s: %s; no live curves", self._uri, first_line(error))

    def _open(self) -> tuple[Experiment, str]:
        experiment = connect(self._uri, self._experiment)
        run = experiment.find(self._key)
        return experiment, (run or experiment.create(self._key, self._name, live=True)).id


def _drain(points: queue.SimpleQueue[Point]) -> Iterator[Point]:
    while not points.empty():
        yield points.get_nowait()
