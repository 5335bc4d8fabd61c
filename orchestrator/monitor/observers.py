"""Who follows a run of a sweep: what they are told, and those that write down what they hear."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from orchestrator.credentials import redacted
from orchestrator.errors import StoreError
from orchestrator.plan.graph import Plan
from orchestrator.schedule.frontier import Unit
from orchestrator.store.record import Record
from orchestrator.store.tickets import TicketStore

if TYPE_CHECKING:
    from orchestrator.tracking import Projector

MIRROR_PATIENCE_S = 120.0
"""How long the end of a run waits for MLflow to catch up."""


class Observer(Protocol):
    """Told what happens, as it happens; must return at once."""

    def started(self, lane: list[Unit]) -> None:
        """A worker is handed the lane."""

    def begun(self, unit: Unit) -> None:
        """A worker is at the unit; the first of a lane, and each that follows a committed one."""

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        """By a worker of this run, or of another."""

    def failed(self, unit: Unit) -> None:
        """The unit has used up its strikes."""

    def ended(self, lane: list[Unit]) -> None:
        """The lane's worker is free, or gone."""


class Several:
    """Observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def started(self, lane: list[Unit]) -> None:
        for observer in self._observers:
            observer.started(lane)

    def begun(self, unit: Unit) -> None:
        for observer in self._observers:
            observer.begun(unit)

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        for observer in self._observers:
            observer.committed(unit, keys, score)

    def failed(self, unit: Unit) -> None:
        for observer in self._observers:
            observer.failed(unit)

    def ended(self, lane: list[Unit]) -> None:
        for observer in self._observers:
            observer.ended(lane)


class Mirror:
    """Hands committed trials to the MLflow at `tracking`, off the driver's thread; does nothing
    where that is empty."""

    def __init__(
        self, plan: Plan, store: TicketStore, tracking: str, records: dict[str, Record]
    ) -> None:
        self.whole = True
        """Once left: whether MLflow holds all that was committed."""
        self._store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._projector: Projector | None = None
        if tracking:
            from orchestrator.tracking import Projector

            self._projector = Projector(plan, tracking, records)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True)
        if self._projector is not None:
            self.whole = self._projector.close(MIRROR_PATIENCE_S)

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        if self._projector is not None:
            self._pool.submit(self._add, self._projector, keys)

    def started(self, lane: list[Unit]) -> None: ...
    def begun(self, unit: Unit) -> None: ...
    def failed(self, unit: Unit) -> None: ...
    def ended(self, lane: list[Unit]) -> None: ...

    def _add(self, projector: Projector, keys: list[str]) -> None:
        for key in keys:
            projector.add(self._store.record(key))


class Notes:
    """Leaves word in the store of units whose worker could not: it died, or never started."""

    def __init__(self, store: TicketStore, plan: Plan) -> None:
        self._store = store
        self._before = store.failures(plan.trials)

    def failed(self, unit: Unit) -> None:
        with suppress(StoreError):
            noted = self._store.failures([unit.head]).get(unit.head)
            if noted == self._before.get(unit.head):  # nothing was said of this run's attempts
                self._store.note_failure(unit.head, {"error": redacted(unit.error)})

    def started(self, lane: list[Unit]) -> None: ...
    def begun(self, unit: Unit) -> None: ...
    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None: ...
    def ended(self, lane: list[Unit]) -> None: ...
