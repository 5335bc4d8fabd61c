"""The projection of a sweep that is still running."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping

from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from orchestrator.tracking.experiment import connect, first_line
from orchestrator.tracking.projection import Projection

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 15.0
"""Pause after an error: each attempt at a dead server takes seconds itself."""


class Projector:
    """Projects records as they come, from a thread of its own.

    Nothing here raises, and only `close` waits: where MLflow is down, one warning is logged, and
    what was missed is caught up at the end, or by `sync` later.
    """

    def __init__(self, plan: Plan, uri: str, records: Mapping[str, Record]) -> None:
        """`records` are those that exist at the start."""
        self._plan, self._uri = plan, uri
        self._known = dict(records)
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._complete = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def add(self, record: Record) -> None:
        """Project `record` soon; returns at once."""
        self._queue.put(record)

    def close(self, timeout: float) -> bool:
        """Catch up and stop; False if MLflow did not hold everything within `timeout` seconds."""
        self._queue.put(None)
        self._thread.join(timeout)
        return self._complete and not self._thread.is_alive()

    def _run(self) -> None:
        projection: Projection | None = None  # serves until an error, then starts afresh
        retry_at = 0.0
        for records in _batches(self._queue):
            self._known |= {record.key: record for record in records}
            if time.monotonic() < retry_at:
                continue
            try:
                if projection is None:
                    projection = self._opened()
                projection.put(records)
            except Exception as error:  # whatever MLflow does, the sweep goes on
                projection, retry_at = None, time.monotonic() + _RETRY_AFTER_S
                self._warn(error)
        try:
            projection = projection or self._opened()
            projection.put(self._known.values())
            self._complete = True
        except Exception as error:
            self._warn(error)

    def _opened(self) -> Projection:
        return Projection(self._plan, connect(self._uri, self._plan.name))

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            log.warning("MLflow at %s: %s; it is caught up later", self._uri, first_line(error))
        self._warned = True


def _batches(waiting: queue.SimpleQueue[Record | None]) -> Iterator[list[Record]]:
    """All that waits, again and again, until None comes."""
    ended = False
    while not ended:
        batch = [waiting.get()]
        while not waiting.empty():
            batch.append(waiting.get_nowait())
        records = [record for record in batch if record is not None]
        ended = len(records) < len(batch)
        if records:
            yield records
