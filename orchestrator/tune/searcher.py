"""Thin adapter between the frontier and Ray Tune: one Tune trial is one session of a worker.

A session runs one chunk after another while there are any. Ending the Tune trial after each chunk
would start a process whenever Tune has no other trial for it at that very moment (10 to 155 starts
for 300 chunks on 4 slots, in three runs). Ray Tune calls `suggest` and `process_events` in
every iteration of its loop and reports the end of each work item as a result; every decision is the
frontier's. Nothing here is saved or restored: a new run asks the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from orchestrator.errors import StoreError
from orchestrator.monitor.observers import Observer
from orchestrator.schedule.batching import next_chunk
from orchestrator.schedule.frontier import Frontier, WorkItem, WorkState
from orchestrator.store.lease_watch import LeaseWatcher
from orchestrator.worker.protocol import Command

log = logging.getLogger(__name__)

SESSION = "session"
"""The only key of a Tune config: the name by which the session's worker is assigned chunks. Tune
copies and snapshots configs at a cost per entry, so the work itself is sent separately."""
MAX_IDLE_S = 10.0
"""How long an idle worker is kept; starting another takes 5 to 20 s."""
OVERDUE_S = 60.0
"""A session that has waited this long for a worker, and `START_S` longer for each other session
that waits, is assumed to find no free slot."""
START_S = 2.5
"""Time per process when many start at once: 64 took 123 s on 2 busy cores. Giving up on them after
60 s ran 40 no-op trials per second instead of 160 to 195."""
STOP_GRACE_S = 100.0
"""How long running trials may take to save their state; `ray job stop` waits 120 s."""
MAX_NODE_LOSSES = 20
"""Node losses of one item from which on each counts as a failure: the item may be the cause."""


class Budget(Protocol):
    """Called in every iteration of Ray Tune's loop, so it must return at once."""

    def exhausted(self) -> bool:
        """Return whether the budget is spent."""


class PlanSearcher(Searcher):
    """Assign chunks of the frontier to sessions, and update the frontier by their results.

    `send` sends a command to all workers. `assign` gives the worker of a session the keys of its
    next chunk, or none to end the session; with None it withdraws the chunk of a lost worker.
    """

    def __init__(
        self,
        frontier: Frontier,
        observer: Observer,
        *,
        slots: int,
        max_leaves: int,
        send: Callable[[Command], None],
        assign: Callable[[str, list[str] | None], None],
        lease_watcher: LeaseWatcher | None = None,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._frontier = frontier
        self._observer = observer
        self._slots = slots
        self._max_leaves = max_leaves
        self._send = send
        self._assign = assign
        self._lease_watcher = lease_watcher
        self._budget = budget
        self._chunks: dict[str, list[WorkItem]] = {}
        """The current or first chunk of each session; empty while its worker is idle."""
        self._starting: dict[str, float] = {}
        """Sessions without a worker, and since when."""
        self._idle: dict[str, float] = {}
        """Sessions with an idle worker, and since when."""
        self._ending: set[str] = set()
        """Sessions whose worker was sent an empty chunk, but has not ended yet."""
        self._on_lost_node: set[str] = set()
        self._exit_causes: dict[str, str] = {}
        self._command: Command = "continue"
        self._deadline = 0.0
        self.interrupted = False
        """Set by the driver, at any time, to end the run: trials save their state."""
        self.outage = ""
        """Why no more chunks are assigned; empty while the store answers."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for `Tuner.restore`, which we never use."""
        return {}

    @property
    def exhausted(self) -> bool:
        """Whether the budget ended the run."""
        return self._command == "drain" and not self.outage

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        self.process_events()
        if self._frontier.settled or self._command != "continue":
            return Searcher.FINISHED
        chunk = self._next_chunk()
        if chunk:
            self._chunks[trial_id] = chunk
            self._starting[trial_id] = time.monotonic()
            return {SESSION: trial_id}
        # After None with nothing to wait for, Tune would ask again for ever, without a message.
        waits = self._chunks or self._frontier.counts[WorkState.LEASED]
        assert waits, f"nothing runs and nothing is ready: {self._frontier.counts}"
        return None

    def process_events(self) -> bool:
        """Process external events and assign chunks to idle workers. Return True once the run is
        over: no worker is active any more, or the grace period for stopping has passed."""
        if self._lease_watcher is not None:
            try:
                for event in self._lease_watcher.events():
                    self._on_lease_event(event.key, list(event.committed))
            except StoreError as error:
                self.outage = str(error)
        if self.interrupted and self._command != "stop":
            self._deadline = time.monotonic() + STOP_GRACE_S
            self._send_command("stop")
        elif self._command == "continue" and (
            self.outage or (self._budget and self._budget.exhausted())
        ):
            self._send_command("drain")
        self._assign_idle()
        late = self._command == "stop" and time.monotonic() > self._deadline
        over = self._command != "continue" or self._frontier.settled
        return over and (late or len(self._starting) == len(self._chunks))

    def _send_command(self, command: Command) -> None:
        self._command = command
        self._send(command)

    def _on_lease_event(self, key: str, committed: list[str]) -> None:
        """Another run committed the item, or its lease ended."""
        item = self._frontier.item(key)
        for trial_key in committed:
            self._frontier.commit(trial_key)
        self._frontier.resume(item)
        if item.state is WorkState.FINISHED:
            self._observer.item_committed(item, committed, None)

    def _next_chunk(self) -> list[WorkItem]:
        return next_chunk(self._frontier, slots=self._slots, max_leaves=self._max_leaves)

    def on_worker_started(self, trial_id: str) -> None:
        """The session got its worker."""
        self._starting.pop(trial_id, None)
        chunk = self._chunks[trial_id]
        if chunk and self._command == "continue":
            self._start_chunk(trial_id, chunk)
        else:
            self._chunks[trial_id] = []
            self._requeue(chunk)
            self._idle[trial_id] = time.monotonic()

    def on_worker_restarting(self, trial_id: str) -> None:
        """The session lost its worker; Ray Tune starts another, which runs the rest of the
        chunk."""
        self._chunks[trial_id] = self._end_chunk(trial_id)
        self._forget_worker(trial_id)
        self._starting[trial_id] = time.monotonic()
        self._assign(trial_id, None)

    def on_node_lost(self, trial_id: str) -> None:
        """The node of the session's worker was lost; `on_trial_complete` follows."""
        self._on_lost_node.add(trial_id)

    def on_worker_exited(self, trial_id: str, cause: str) -> None:
        """The session's worker exited for a known cause; `on_trial_complete` follows."""
        self._exit_causes[trial_id] = cause

    def _assign_idle(self) -> None:
        """Assign a chunk to each idle worker or release it.

        A worker is released when the run is over, when it has been idle for `MAX_IDLE_S`, or when
        another session needs a worker: Ray Tune then gives it the process.
        """
        now = time.monotonic()
        for session, since in list(self._idle.items()):
            wanted = len(self._starting) > len(self._ending)
            over = self._command != "continue" or self._frontier.settled
            if over or (wanted and self._is_overdue(now)):
                self._release(session)
            elif chunk := self._next_chunk():
                self._start_chunk(session, chunk)
            elif wanted or now - since > MAX_IDLE_S:
                self._release(session)
            else:
                return  # the sessions after it have been idle for a shorter time

    def _is_overdue(self, now: float) -> bool:
        """Whether the session that has waited longest for a worker precedes the ready items."""
        session, since = next(iter(self._starting.items()))
        chunk, ready = self._chunks[session], self._frontier.peek()
        more_urgent = bool(chunk) and (ready is None or chunk[0].path_cost >= ready.path_cost)
        patience = OVERDUE_S + START_S * (len(self._starting) - 1)
        return more_urgent and now - since > patience

    def _release(self, session: str) -> None:
        self._idle.pop(session, None)
        self._ending.add(session)
        self._assign(session, [])

    def _start_chunk(self, session: str, chunk: list[WorkItem]) -> None:
        self._idle.pop(session, None)
        self._chunks[session] = chunk
        self._assign(session, [item.key for item in chunk])
        self._observer.chunk_started(chunk)
        self._observer.item_started(chunk[0])

    def _end_chunk(self, session: str) -> list[WorkItem]:
        """End the session's chunk and return its unfinished items."""
        chunk, self._chunks[session] = self._chunks[session], []
        if chunk and session not in self._starting:
            self._observer.chunk_ended(chunk)
        return _unfinished(chunk)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if result["end"] == "outage":
            self.outage = result["error"]
        chunk = _unfinished(self._chunks[trial_id])
        item = next((item for item in chunk if item.key == result["key"]), None)
        if item is None:
            return
        for key in result["committed"]:
            self._frontier.commit(key)
        match result["end"]:
            case "complete":
                if item.state is WorkState.RUNNING:
                    self._record_failure(item, "it ended without committing all of its trials")
                else:
                    self._observer.item_committed(item, result["committed"], result["score"])
                    if following := next(iter(_unfinished(chunk)), None):
                        self._observer.item_started(following)
                        return
            case "error":
                self._record_failure(item, result["error"])
            case "lost":
                self._on_worker_lost(item, result["error"], node=True)
            case "leased":
                self._defer(item)
            case "outage" | "stopped":
                self._frontier.requeue(item)
        self._requeue(self._end_chunk(trial_id))
        if result["broken"]:
            self._release(trial_id)
        elif not result["done"]:
            self._idle[trial_id] = time.monotonic()
            self._assign_idle()

    # Tune calls this with keywords: the parameter names are part of its interface.
    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        # The last result of a session reaches a searcher only here.
        if result:
            self.on_trial_result(trial_id, result)
        unfinished = self._end_chunk(trial_id)
        if error and unfinished:
            cause = self._exit_causes.get(trial_id, "the worker process exited")
            node_lost = trial_id in self._on_lost_node
            self._on_worker_lost(unfinished.pop(0), cause, node=node_lost)
        self._requeue(unfinished)
        self._forget_worker(trial_id)
        self._starting.pop(trial_id, None)
        del self._chunks[trial_id]

    def _forget_worker(self, trial_id: str) -> None:
        self._idle.pop(trial_id, None)
        self._exit_causes.pop(trial_id, None)
        self._ending.discard(trial_id)
        self._on_lost_node.discard(trial_id)

    def _requeue(self, chunk: list[WorkItem]) -> None:
        for item in chunk:
            self._frontier.requeue(item)

    def _defer(self, item: WorkItem) -> None:
        self._frontier.defer(item)
        if self._lease_watcher is not None:
            self._lease_watcher.watch(item.key, item.members)

    def _on_worker_lost(self, item: WorkItem, cause: str, *, node: bool) -> None:
        """The worker that ran the item is gone, alone or together with its node."""
        item.node_losses += node
        if not node:
            self._record_failure(item, cause)
        elif item.node_losses < MAX_NODE_LOSSES:
            self._frontier.requeue(item)
        else:
            self._record_failure(item, f"{item.node_losses} nodes were lost while they ran it")

    def _record_failure(self, item: WorkItem, error: str) -> None:
        self._frontier.record_failure(item, error)
        if item.state is WorkState.FAILED:
            self._observer.item_failed(item)
        else:
            log.warning("trial %s: %s; it will be retried", item.key[:12], error)


def _unfinished(chunk: list[WorkItem]) -> list[WorkItem]:
    return [item for item in chunk if item.state is WorkState.RUNNING]
