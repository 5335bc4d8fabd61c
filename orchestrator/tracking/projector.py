"""Projection of a running sweep."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping

from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from orchestrator.tracking.experiment import first_line, open_experiment
from orchestrator.tracking.projection import Projection

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 15.0
"""Pause after an error: each attempt to reach a dead server takes several seconds."""


class Projector:
    """Projects records as they are added, on a background thread.

    No method raises, and only `close` waits. If MLflow is down, one warning is logged; the missing
    records are projected at the end, or later by `sync`.
    """

    def __init__(self, plan: Plan, uri: str, records: Mapping[str, Record]) -> None:
        """`records` are those that already exist."""
        self._plan, self._uri = plan, uri
        self._known = dict(records)
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._complete = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Queue `record` for projection; return immediately."""
        self._queue.put(record)

    def close(self, timeout: float) -> bool:
        """Project what is left and stop. Return False if MLflow does not hold everything within
        `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)
        return self._complete and not self._thread.is_alive()

    def _run(self) -> None:
        projection: Projection | None = None  # replaced after an error
        retry_at = 0.0
        for records in _batches(self._queue):
            self._known |= {record.key: record for record in records}
            if time.monotonic() < retry_at:
                continue
            try:
                if projection is None:
                    projection = self._open()
                projection.put(records)
            except Exception as error:  # a failure of MLflow must not stop the sweep
                projection, retry_at = None, time.monotonic() + _RETRY_AFTER_S
                self._warn(error)
        try:
            projection = projection or self._open()
            projection.put(self._known.values())
            self._complete = True
        except Exception as error:
            self._warn(error)

    def _open(self) -> Projection:
        return Projection(self._plan, open_experiment(self._uri, self._plan.name))

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            log.warning(
                "MLflow at %s: %s; missing records are added later", self._uri, first_line(error)
            )
        self._warned = True


def _batches(waiting: queue.SimpleQueue[Record | None]) -> Iterator[list[Record]]:
    """Yield the waiting records in batches until the queue contains None."""
    ended = False
    while not ended:
        batch = [waiting.get()]
        while not waiting.empty():
            batch.append(waiting.get_nowait())
        records = [record for record in batch if record is not None]
        ended = len(records) < len(batch)
        if records:
            yield records
