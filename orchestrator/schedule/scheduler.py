"""The scheduler: events in, commands out.

It assigns chunks of the frontier to sessions, and updates the frontier by their results. A session
is a worker that runs one chunk after another while there are any. Ending it after each chunk would
start a process whenever Ray Tune has no other session for it at that very moment (10 to 155 starts
for 300 chunks on 4 slots, in three runs). The scheduler is pure: it reads no clock, and its caller
carries out its commands.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.errors import InputError
from orchestrator.schedule.batching import next_chunk
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
    ItemResult,
    LeaseEnded,
    NodeLost,
    SessionEnded,
    SessionRequested,
    StoreOutage,
    Tick,
    WorkerExited,
    WorkerRestarting,
    WorkerStarted,
)
from orchestrator.schedule.failures import Failure, FailurePolicy
from orchestrator.schedule.frontier import Frontier, WorkItem, WorkState
from orchestrator.schedule.run_events import (
    ChunkEnded,
    ChunkStarted,
    ItemCommitted,
    ItemDeferred,
    ItemFailed,
    ItemRequeued,
    ItemRetried,
    ItemsSkipped,
    ItemStarted,
    ItemsWanted,
    RunEvent,
)
from orchestrator.schedule.strategy import StrategyState

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


class Scheduler:
    """Decides what the workers of a run do.

    `slots` is the number of workers that run at once, `max_leaves` the longest batch of leaves.
    `strategy` wants more trials as results come; without it, the frontier's are all that run.
    """

    def __init__(
        self,
        frontier: Frontier,
        *,
        slots: int,
        max_leaves: int,
        failures: FailurePolicy,
        strategy: StrategyState | None = None,
    ) -> None:
        self.frontier = frontier
        self.outage = ""
        """Why no more chunks are assigned; empty while the store answers."""
        self.error = ""
        """Why the run is stopped before its end: the strategy failed."""
        self._slots = slots
        self._max_leaves = max_leaves
        self._failures = failures
        self._strategy = strategy
        self._chunks: dict[str, list[WorkItem]] = {}
        """The current or first chunk of each session; empty while its worker is idle."""
        self._starting: dict[str, float] = {}
        """Sessions without a worker, and since when."""
        self._idle: dict[str, float] = {}
        """Sessions with an idle worker, and since when."""
        self._ending: set[str] = set()
        """Sessions whose worker was released, but has not ended yet."""
        self._on_lost_node: set[str] = set()
        self._exit_causes: dict[str, str] = {}
        self._command: WorkerCommand = "continue"
        self._deadline = 0.0
        self._now = 0.0
        self._commands: list[Command] = []
        skipped = [item for item in frontier.items if item.state is WorkState.SKIPPED]
        self._first: list[Command] = [Notify(ItemsSkipped(skipped))] if skipped else []

    @property
    def exhausted(self) -> bool:
        """Whether the budget ended the run."""
        return self._command == "drain" and not self.outage

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in an event and return the commands that follow from it, in order.

        `now` is in seconds and must not decrease from call to call.
        """
        self._now = now
        self._commands, self._first = self._first, []
        match event:
            case Tick():
                self._on_tick()
            case ItemEnded(session, result):
                self._on_item_ended(session, result)
            case SessionRequested(session):
                self._on_session_requested(session)
            case WorkerStarted(session):
                self._on_worker_started(session)
            case WorkerRestarting(session):
                self._on_worker_restarting(session)
            case NodeLost(session):
                self._on_lost_node.add(session)
            case WorkerExited(session, cause):
                self._exit_causes[session] = cause
            case SessionEnded(session, failed):
                self._on_session_ended(session, failed=failed)
            case LeaseEnded():
                self._on_lease_ended(event)
            case StoreOutage(error):
                self.outage = error
            case BudgetSpent():
                self._drain()
            case Interrupted():
                self._stop()
        return self._commands

    def _do(self, command: Command) -> None:
        self._commands.append(command)

    def _notify(self, event: RunEvent) -> None:
        self._commands.append(Notify(event))

    def _on_session_requested(self, session: str) -> None:
        if self.frontier.settled or self._command != "continue":
            self._do(Finish())
            return
        chunk = self._next_chunk()
        if chunk:
            self._chunks[session] = chunk
            self._starting[session] = self._now
            self._do(StartSession(session))
            return
        # With nothing to wait for, Ray Tune would ask again for ever, without a message.
        waits = self._chunks or self.frontier.counts[WorkState.LEASED]
        assert waits, f"nothing runs and nothing is ready: {self.frontier.counts}"

    def _on_tick(self) -> None:
        """Assign chunks to idle workers, and end the run once no worker is active any more, or the
        grace period for stopping has passed."""
        if self.outage:
            self._drain()
        self._assign_idle()
        late = self._command == "stop" and self._now > self._deadline
        over = self._command != "continue" or self.frontier.settled
        if over and (late or len(self._starting) == len(self._chunks)):
            self._do(EndRun())

    def _stop(self) -> None:
        if self._command != "stop":
            self._deadline = self._now + STOP_GRACE_S
            self._send("stop")

    def _drain(self) -> None:
        if self._command == "continue":
            self._send("drain")

    def _send(self, command: WorkerCommand) -> None:
        self._command = command
        self._do(SendCommand(command))

    def _on_lease_ended(self, event: LeaseEnded) -> None:
        """Another run committed the item, or its lease ended."""
        item = self.frontier.item(event.key)
        for key in event.committed:
            self.frontier.commit(key)
        self.frontier.resume(item)
        if item.state is WorkState.FINISHED:
            self._notify(ItemCommitted(item, event.committed, event.scores.get(item.key)))
        self._add_results(event.scores)

    def _next_chunk(self) -> list[WorkItem]:
        return next_chunk(self.frontier, slots=self._slots, max_leaves=self._max_leaves)

    def _on_worker_started(self, session: str) -> None:
        self._starting.pop(session, None)
        chunk = self._chunks[session]
        if chunk and self._command == "continue":
            self._start_chunk(session, chunk)
        else:
            self._chunks[session] = []
            self._requeue(chunk)
            self._idle[session] = self._now

    def _on_worker_restarting(self, session: str) -> None:
        self._chunks[session] = chunk = self._end_chunk(session)
        if chunk:
            self._notify(ItemRequeued(chunk[0], "its worker was lost and is started again"))
        self._forget_worker(session)
        self._starting[session] = self._now
        self._do(WithdrawChunk(session))

    def _assign_idle(self) -> None:
        """Assign a chunk to each idle worker or release it.

        A worker is released when the run is over, when it has been idle for `MAX_IDLE_S`, or when
        another session needs a worker: Ray Tune then gives it the process.
        """
        for session, since in list(self._idle.items()):
            wanted = len(self._starting) > len(self._ending)
            over = self._command != "continue" or self.frontier.settled
            if over or (wanted and self._is_overdue()):
                self._release(session)
            elif chunk := self._next_chunk():
                self._start_chunk(session, chunk)
            elif wanted or self._now - since > MAX_IDLE_S:
                self._release(session)
            else:
                return  # the sessions after it have been idle for a shorter time

    def _is_overdue(self) -> bool:
        """Whether the session that has waited longest for a worker precedes the ready items."""
        session, since = next(iter(self._starting.items()))
        chunk, ready = self._chunks[session], self.frontier.peek()
        more_urgent = bool(chunk) and (ready is None or chunk[0].path_cost >= ready.path_cost)
        patience = OVERDUE_S + START_S * (len(self._starting) - 1)
        return more_urgent and self._now - since > patience

    def _release(self, session: str) -> None:
        self._idle.pop(session, None)
        self._ending.add(session)
        self._do(ReleaseWorker(session))

    def _start_chunk(self, session: str, chunk: list[WorkItem]) -> None:
        self._idle.pop(session, None)
        self._chunks[session] = chunk
        self._do(AssignChunk(session, [item.key for item in chunk]))
        self._notify(ChunkStarted(session, chunk))
        self._notify(ItemStarted(session, chunk[0]))

    def _end_chunk(self, session: str) -> list[WorkItem]:
        """End the session's chunk and return its unfinished items."""
        chunk, self._chunks[session] = self._chunks[session], []
        if chunk and session not in self._starting:
            self._notify(ChunkEnded(session, chunk))
        return _unfinished(chunk)

    def _on_item_ended(self, session: str, result: ItemResult) -> None:
        if result.end == "outage":
            self.outage = result.error
        chunk = _unfinished(self._chunks[session])
        item = next((item for item in chunk if item.key == result.key), None)
        if item is None:
            return
        for key in result.committed:
            self.frontier.commit(key)
        match result.end:
            case "complete":
                if item.state is WorkState.RUNNING:
                    failure = Failure("it ended without committing all of its trials")
                    self._on_failure(item, failure)
                else:
                    self._notify(ItemCommitted(item, result.committed, result.score, session))
                    if result.score is not None:
                        self._add_results({item.key: result.score})
                    if following := next(iter(_unfinished(chunk)), None):
                        self._notify(ItemStarted(session, following))
                        return
            case "error":
                self._on_failure(item, Failure(result.error, repeats=result.repeats))
            case "lost":
                self._on_failure(item, Failure(result.error, node_lost=True))
            case "leased":
                self.frontier.defer(item)
                self._notify(ItemDeferred(item))
                self._do(WatchLease(item.key, sorted(item.members)))
            case "outage" | "stopped" if item.state is WorkState.RUNNING:
                self.frontier.requeue(item)
                self._notify(ItemRequeued(item, result.error or "the run is being ended"))
        self._requeue(self._end_chunk(session))
        if result.broken:
            self._release(session)
        elif not result.last:
            self._idle[session] = self._now
            self._assign_idle()

    def _on_session_ended(self, session: str, *, failed: bool) -> None:
        unfinished = self._end_chunk(session)
        if failed and unfinished:
            cause = self._exit_causes.get(session, "the worker process exited")
            node_lost = session in self._on_lost_node
            self._on_failure(unfinished.pop(0), Failure(cause, node_lost=node_lost))
        self._requeue(unfinished)
        self._forget_worker(session)
        self._starting.pop(session, None)
        del self._chunks[session]

    def _forget_worker(self, session: str) -> None:
        self._idle.pop(session, None)
        self._exit_causes.pop(session, None)
        self._ending.discard(session)
        self._on_lost_node.discard(session)

    def _requeue(self, chunk: list[WorkItem]) -> None:
        for item in chunk:
            self.frontier.requeue(item)

    def _on_failure(self, item: WorkItem, failure: Failure) -> None:
        """An attempt at the item failed, or its worker is gone, alone or together with its node."""
        if item.state is not WorkState.RUNNING:
            return
        item.node_losses += failure.node_lost
        decision = self._failures.after(item, failure)
        item.failures += decision.action != "requeue"
        match decision.action:
            case "give_up":
                blocked = self.frontier.fail(item, decision.error)
                self._notify(ItemFailed(item, blocked))
            case "retry":
                self.frontier.requeue(item)
                self._notify(ItemRetried(item, decision.error))
            case "requeue":
                self.frontier.requeue(item)
                self._notify(ItemRequeued(item, decision.error))

    def _add_results(self, scores: Mapping[str, float]) -> None:
        """Let the strategy want more trials because of new results."""
        if self._strategy is None or not scores:
            return
        self._strategy.add(scores)
        if not self.frontier.counts[WorkState.SKIPPED]:
            return
        try:
            wanted = self.frontier.want(self._strategy.wanted())
        except InputError as error:
            self.error, self._strategy = str(error), None
            self._stop()
            return
        if wanted:
            self._notify(ItemsWanted(wanted))


def _unfinished(chunk: list[WorkItem]) -> list[WorkItem]:
    return [item for item in chunk if item.state is WorkState.RUNNING]
