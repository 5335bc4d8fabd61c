"""Observers of a run: their protocol, and those that write to MLflow and to the store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from orchestrator.credentials import redact_secrets
from orchestrator.errors import StoreError
from orchestrator.plan.graph import Plan
from orchestrator.schedule.frontier import WorkItem
from orchestrator.store.record import Record
from orchestrator.store.tickets import TicketStore

if TYPE_CHECKING:
    from orchestrator.tracking import Projector

MLFLOW_TIMEOUT_S = 120.0
"""How long the end of a run waits for MLflow to catch up."""


class Observer(Protocol):
    """Receives the events of a run as they happen. Every method must return at once."""

    def chunk_started(self, chunk: list[WorkItem]) -> None:
        """A chunk is assigned to a worker."""

    def item_started(self, item: WorkItem) -> None:
        """A worker starts the item: the first of its chunk, or the next after a commit."""

    def item_committed(self, item: WorkItem, keys: list[str], score: float | None) -> None:
        """A worker of this run, or of another run, has committed the item."""

    def item_failed(self, item: WorkItem) -> None:
        """The item has failed for the last time: it has reached `max_failures`."""

    def chunk_ended(self, chunk: list[WorkItem]) -> None:
        """The chunk's worker is free, or gone."""


class CompositeObserver:
    """Forwards every event to several observers."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def chunk_started(self, chunk: list[WorkItem]) -> None:
        for observer in self._observers:
            observer.chunk_started(chunk)

    def item_started(self, item: WorkItem) -> None:
        for observer in self._observers:
            observer.item_started(item)

    def item_committed(self, item: WorkItem, keys: list[str], score: float | None) -> None:
        for observer in self._observers:
            observer.item_committed(item, keys, score)

    def item_failed(self, item: WorkItem) -> None:
        for observer in self._observers:
            observer.item_failed(item)

    def chunk_ended(self, chunk: list[WorkItem]) -> None:
        for observer in self._observers:
            observer.chunk_ended(chunk)


class TrackingObserver:
    """Sends committed trials to the MLflow server at `mlflow_uri`, outside the driver's thread.

    It does nothing if `mlflow_uri` is empty.
    """

    def __init__(
        self, plan: Plan, store: TicketStore, mlflow_uri: str, records: dict[str, Record]
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

    def item_committed(self, item: WorkItem, keys: list[str], score: float | None) -> None:
        if self._projector is not None:
            self._pool.submit(self._add, self._projector, keys)

    def chunk_started(self, chunk: list[WorkItem]) -> None: ...
    def item_started(self, item: WorkItem) -> None: ...
    def item_failed(self, item: WorkItem) -> None: ...
    def chunk_ended(self, chunk: list[WorkItem]) -> None: ...

    def _add(self, projector: Projector, keys: list[str]) -> None:
        for key in keys:
            projector.add(self._store.record(key))


class FailureObserver:
    """Stores the error of items whose worker could not: it exited, or never started."""

    def __init__(self, store: TicketStore, plan: Plan) -> None:
        self._store = store
        self._earlier = store.failures(plan.trials)

    def item_failed(self, item: WorkItem) -> None:
        with suppress(StoreError):
            note = self._store.failures([item.key]).get(item.key)
            if note == self._earlier.get(item.key):  # no attempt of this run has stored its error
                self._store.put_failure(item.key, {"error": redact_secrets(item.error)})

    def chunk_started(self, chunk: list[WorkItem]) -> None: ...
    def item_started(self, item: WorkItem) -> None: ...
    def item_committed(self, item: WorkItem, keys: list[str], score: float | None) -> None: ...
    def chunk_ended(self, chunk: list[WorkItem]) -> None: ...
