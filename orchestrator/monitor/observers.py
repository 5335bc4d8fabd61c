"""Observers of a run: their protocol, and those that write to MLflow and to the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from orchestrator.credentials import redact_secrets
from orchestrator.errors import StoreError
from orchestrator.plan.graph import Plan
from orchestrator.schedule.run_events import ItemCommitted, ItemFailed, RunEvent
from orchestrator.store.record import Record
from orchestrator.store.tickets import TrialStore

if TYPE_CHECKING:
    from orchestrator.tracking import Projector

log = logging.getLogger(__name__)

MLFLOW_TIMEOUT_S = 120.0
"""How long the end of a run waits for MLflow to catch up."""


class Observer(Protocol):
    """Receives the events of a run as they happen, in the driver's thread."""

    def on_event(self, event: RunEvent) -> None:
        """Take in an event, and return at once. Ignore the kinds that do not matter."""


class CompositeObserver:
    """Forwards every event to several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def on_event(self, event: RunEvent) -> None:
        for observer in self._observers:
            observer.on_event(event)


class IsolatedObserver:
    """Forwards events to an observer of the caller until it raises.

    The error is logged with its traceback, once. It must not end the run, which may have taken
    days.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer: Observer | None = observer

    def on_event(self, event: RunEvent) -> None:
        if self._observer is None:
            return
        try:
            self._observer.on_event(event)
        except Exception:
            name = type(self._observer).__name__
            self._observer = None
            log.exception("the observer %s failed and receives no more events", name)


class TrackingObserver:
    """Sends committed trials to the MLflow server at `mlflow_uri`, outside the driver's thread.

    It does nothing if `mlflow_uri` is empty.
    """

    def __init__(
        self, plan: Plan, store: TrialStore, mlflow_uri: str, records: dict[str, Record]
    ) -> None:
        self.complete = True
        """After exit: whether MLflow holds everything that was committed."""
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._projector: Projector | None = None
        if mlflow_uri:
            from orchestrator.tracking import Projector

            self._projector = Projector(plan, mlflow_uri, records)

    def __enter__(self) -> TrackingObserver:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True)
        if self._projector is not None:
            self.complete = self._projector.close(MLFLOW_TIMEOUT_S)

    def on_event(self, event: RunEvent) -> None:
        if isinstance(event, ItemCommitted) and self._projector is not None:
            self._pool.submit(self._add, self._projector, event.keys)

    def _add(self, projector: Projector, keys: Sequence[str]) -> None:
        for key in keys:
            projector.add(self._store.record(key))


class FailureObserver:
    """Stores the error of items whose worker could not: it exited, or never started."""

    def __init__(self, store: TrialStore, plan: Plan) -> None:
        self._store = store
        self._earlier = store.failures(plan.trials)

    def on_event(self, event: RunEvent) -> None:
        if not isinstance(event, ItemFailed):
            return
        item = event.item
        with suppress(StoreError):
            note = self._store.failures([item.key]).get(item.key)
            if note == self._earlier.get(item.key):  # no attempt of this run has stored its error
                self._store.put_failure(item.key, {"error": redact_secrets(item.error)})
