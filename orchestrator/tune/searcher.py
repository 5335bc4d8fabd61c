"""Thin adapter between the scheduler and Ray Tune: one Tune trial is one session of a worker.

Ray Tune calls `suggest` and `process_events` in every iteration of its loop and reports the end of
each work item as a result. They become events of the scheduler, which decides, and its commands are
carried out here. Nothing here is saved or restored: a new run asks the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from orchestrator.errors import StoreError
from orchestrator.monitor.observers import Observer
from orchestrator.schedule.commands import (
    AssignChunk,
    Command,
    EndRun,
    Finish,
    Notify,
    ReleaseWorker,
    SendCommand,
    StartSession,
    WatchLease,
    WithdrawChunk,
    WorkerCommand,
)
from orchestrator.schedule.events import (
    BudgetSpent,
    Event,
    Interrupted,
    ItemEnded,
    LeaseEnded,
    SessionEnded,
    SessionRequested,
    StoreOutage,
    Tick,
)
from orchestrator.schedule.run_events import ItemRetried
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.lease_watch import LeaseWatcher

log = logging.getLogger(__name__)

SESSION = "session"
"""The only key of a Tune config: the name by which the session's worker is assigned chunks. Tune
copies and snapshots configs at a cost per entry, so the work itself is sent separately."""
RESULT = "result"
"""The key of a Tune result that holds the `ItemResult`."""


class Budget(Protocol):
    """Called in every iteration of Ray Tune's loop, so it must return at once."""

    def exhausted(self) -> bool:
        """Return whether the budget is spent."""


class PlanSearcher(Searcher):
    """Passes the events of Ray Tune to the scheduler, and carries out its commands.

    `send` sends a command to all workers. `assign` gives the worker of a session the keys of its
    next chunk, or none to end the session; with None it withdraws the chunk of a lost worker.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        observer: Observer,
        *,
        send: Callable[[WorkerCommand], None],
        assign: Callable[[str, list[str] | None], None],
        lease_watcher: LeaseWatcher | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._scheduler = scheduler
        self._observer = observer
        self._send = send
        self._assign = assign
        self._lease_watcher = lease_watcher
        self._budget = budget
        self.interrupted = False
        """Set by the driver, at any time, to end the run: trials save their state."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for `Tuner.restore`, which we never use."""
        return {}

    def handle(self, event: Event) -> list[Command]:
        """Pass an event to the scheduler and carry out its commands; return them."""
        commands = self._scheduler.handle(event, time.monotonic())
        for command in commands:
            self._carry_out(command)
        return commands

    def _carry_out(self, command: Command) -> None:
        match command:
            case Notify(event):
                if isinstance(event, ItemRetried):
                    log.warning(
                        "trial %s: %s; it will be retried", event.item.key[:12], event.error
                    )
                self._observer.on_event(event)
            case AssignChunk(session, keys):
                self._assign(session, list(keys))
            case ReleaseWorker(session):
                self._assign(session, [])
            case WithdrawChunk(session):
                self._assign(session, None)
            case SendCommand(worker_command):
                self._send(worker_command)
            case WatchLease(key, trials) if self._lease_watcher is not None:
                self._lease_watcher.watch(key, trials)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        self.process_events()
        for command in self.handle(SessionRequested(trial_id)):
            if isinstance(command, StartSession):
                return {SESSION: trial_id}
            if isinstance(command, Finish):
                return Searcher.FINISHED
        return None

    def process_events(self) -> bool:
        """Pass on what has happened outside of Ray Tune. Return True once the run is over."""
        if self._lease_watcher is not None:
            try:
                for event in self._lease_watcher.events():
                    self.handle(LeaseEnded(event.key, event.committed, event.scores))
            except StoreError as error:
                self.handle(StoreOutage(str(error)))
        if self.interrupted:
            self.handle(Interrupted())
        elif self._budget is not None and self._budget.exhausted():
            self.handle(BudgetSpent())
        return any(isinstance(command, EndRun) for command in self.handle(Tick()))

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self.handle(ItemEnded(trial_id, result[RESULT]))

    # Tune calls this with keywords: the parameter names are part of its interface.
    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        # The last result of a session reaches a searcher only here.
        if result:
            self.on_trial_result(trial_id, result)
        self.handle(SessionEnded(trial_id, failed=error))
