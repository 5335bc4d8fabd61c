"""Which session is assigned which chunk when a worker starts, ends a chunk, is lost or is idle."""

from __future__ import annotations

import pytest

from orchestrator.schedule import scheduler as constants
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
)
from orchestrator.schedule.events import (
    BudgetSpent,
    Event,
    Interrupted,
    ItemEnd,
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
from orchestrator.schedule.failures import MAX_NODE_LOSSES, LimitedRetries
from orchestrator.schedule.frontier import Frontier, WorkState
from orchestrator.schedule.run_events import (
    ChunkEnded,
    ChunkStarted,
    ItemCommitted,
    ItemDeferred,
    ItemFailed,
    ItemRequeued,
    ItemRetried,
    RunEvent,
)
from orchestrator.schedule.scheduler import Scheduler
from tests.support.sweeps import plan_of, sweep_document


class Bench:
    """A scheduler on four chains of a dense run and two levels, and what it has commanded."""

    def __init__(self) -> None:
        content = sweep_document(
            seed=[0, 1, 2, 3], schedule={"rate": 0.2, "levels": 2}, controls=[]
        )
        self.frontier = Frontier(plan_of(content))
        self.scheduler = Scheduler(
            self.frontier, slots=2, max_leaves=1, failures=LimitedRetries(max_failures=3)
        )
        self.now = 0.0
        self.assigned: dict[str, list[str] | None] = {}
        self.active: list[str] = []
        """Keys of the first items of the active chunks."""
        self.told: list[RunEvent] = []
        self.sent: list[str] = []

    def do(self, event: Event, *, after_s: float = 0.0) -> list[Command]:
        self.now += after_s
        commands = self.scheduler.handle(event, self.now)
        for command in commands:
            match command:
                case AssignChunk(session, keys):
                    self.assigned[session] = list(keys)
                case ReleaseWorker(session):
                    self.assigned[session] = []
                case WithdrawChunk(session):
                    self.assigned[session] = None
                case SendCommand(sent):
                    self.sent.append(sent)
                case Notify(event):
                    self.told.append(event)
                    if isinstance(event, ChunkStarted):
                        self.active.append(event.items[0].key)
                    elif isinstance(event, ChunkEnded):
                        self.active.remove(event.items[0].key)
        return commands

    def start(self, *sessions: str) -> None:
        """Request sessions, and let each of them get its worker."""
        for session in sessions:
            self.request(session)
        for session in sessions:
            self.do(WorkerStarted(session))

    def request(self, session: str) -> None:
        assert self.do(SessionRequested(session)) == [StartSession(session)]

    def chunk(self, session: str) -> list[str]:
        keys = self.assigned[session]
        assert keys
        return keys

    def report(
        self,
        session: str,
        key: str,
        end: ItemEnd = "complete",
        *,
        committed: list[str] | None = None,
        repeats: bool = False,
        broken: bool = False,
        last: bool = False,
    ) -> None:
        if committed is None:
            committed = sorted(self.frontier.item(key).members) if end == "complete" else []
        result = ItemResult(
            key=key,
            end=end,
            committed=committed,
            error="it broke",
            repeats=repeats,
            broken=broken,
            last=last,
        )
        self.do(ItemEnded(session, result))

    def end(self, session: str) -> None:
        """Report the end of a session, as its worker does after an empty chunk."""
        self.do(ItemEnded(session, ItemResult(end="idle", last=True)))
        self.do(SessionEnded(session))

    def perform(self, session: str) -> None:
        for key in self.chunk(session):
            self.report(session, key)

    def over(self) -> bool:
        return EndRun() in self.do(Tick())

    def running(self) -> set[str]:
        return {item.key for item in self.frontier.items if item.state is WorkState.RUNNING}

    def failures(self) -> int:
        return sum(item.failures for item in self.frontier.items)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_worker_is_assigned_one_chunk_after_another(bench: Bench) -> None:
    bench.request("a")
    assert bench.assigned == {}, "it has no worker yet"
    bench.do(WorkerStarted("a"))
    performed = []
    while chunk := bench.assigned["a"]:
        assert bench.active == [chunk[0]]
        performed += chunk
        bench.perform("a")
    assert bench.assigned["a"] == [], "everything is committed: the session ends"
    assert sorted(performed) == sorted(item.key for item in bench.frontier.items)
    assert bench.frontier.settled
    assert bench.active == []
    bench.end("a")
    assert bench.over()
    assert bench.do(SessionRequested("b")) == [Finish()]


def test_an_idle_worker_is_released_for_a_session_that_waits_for_one(bench: Bench) -> None:
    """Ray Tune gives it the process and withdraws the request for another machine."""
    for session in "abcd":
        bench.request(session)
    bench.do(WorkerStarted("a"))
    bench.do(WorkerStarted("b"))
    bench.perform("a")
    bench.perform("b")
    assert bench.assigned == {"a": [], "b": []}, "all remaining chunks belong to other sessions"
    for ended, started in ("ac", "bd"):
        bench.end(ended)
        bench.do(WorkerStarted(started))
        bench.perform(started)
    assert bench.frontier.settled


def test_an_overdue_session_goes_before_ready_items_that_are_not_more_urgent(bench: Bench) -> None:
    bench.request("a")
    bench.request("b")
    bench.do(WorkerStarted("a"))
    bench.perform("a")
    assert bench.chunk("a"), "b may get its worker at any moment"
    bench.now += constants.OVERDUE_S + 0.1
    bench.perform("a")
    assert bench.assigned["a"] == []


@pytest.mark.parametrize("overdue", [False, True])
def test_many_sessions_that_start_at_once_may_take_longer(bench: Bench, overdue: bool) -> None:
    for session in "abc":
        bench.request(session)
    bench.do(WorkerStarted("a"))
    bench.now += constants.OVERDUE_S + constants.START_S + (0.1 if overdue else -0.1)
    bench.perform("a")
    assert (bench.assigned["a"] == []) == overdue


def test_a_worker_that_has_been_idle_for_long_is_released(bench: Bench) -> None:
    bench.start(*"abcd")
    bench.perform("a")
    bench.do(Tick(), after_s=constants.MAX_IDLE_S)
    assert bench.assigned["a"] != [], "an item may become ready for it soon"
    assert EndRun() not in bench.do(Tick(), after_s=0.1)
    assert bench.assigned["a"] == []
    assert bench.assigned["b"] != []


def test_the_exit_of_an_idle_worker_is_not_a_failure_of_any_item(bench: Bench) -> None:
    bench.start(*"abcd")
    bench.perform("a")
    bench.do(SessionEnded("a", failed=True))
    assert bench.do(SessionRequested("e")) == []
    for session in "bcd":
        bench.perform(session)
    assert bench.frontier.settled
    assert bench.failures() == 0


@pytest.mark.parametrize("end", ["stop", "drain"])
def test_nothing_starts_at_the_end_of_a_run(bench: Bench, end: str) -> None:
    for session in "abcd":
        bench.request(session)
    for session in "abc":
        bench.do(WorkerStarted(session))
    bench.perform("a")
    bench.do(WorkerStarted("d"))
    bench.report("d", bench.chunk("d")[0], "outage" if end == "drain" else "stopped", last=True)
    if end == "stop":
        bench.do(Interrupted())
    assert not bench.over(), "b and c are still running"
    assert bench.sent == [end]
    assert bench.assigned["a"] == []
    assert bench.do(SessionRequested("e")) == [Finish()]
    for session in "bc":
        bench.report(session, bench.chunk(session)[0], "stopped", last=True)
    for session in "abcd":
        bench.end(session)
    assert bench.over()
    assert bench.active == []
    assert not bench.running()
    assert bench.failures() == 0


def test_a_trial_that_does_not_stop_is_waited_for_until_the_grace_period_is_over(
    bench: Bench,
) -> None:
    bench.start("a")
    bench.do(Interrupted())
    bench.do(Interrupted(), after_s=constants.STOP_GRACE_S)
    assert bench.sent == ["stop"]
    assert not bench.over()
    bench.now += 0.1
    assert bench.over()


def test_a_spent_budget_lets_running_items_end(bench: Bench) -> None:
    bench.start("a")
    bench.do(BudgetSpent())
    assert bench.sent == ["drain"]
    assert not bench.over()
    first, second, _ = bench.chunk("a")
    bench.report("a", first)
    bench.report("a", second, "stopped", last=True)
    bench.do(SessionEnded("a"))
    assert bench.over()
    assert bench.scheduler.exhausted
    assert not bench.frontier.settled


def test_an_item_leased_by_another_run_ends_its_chunk_but_not_the_session(bench: Bench) -> None:
    bench.start("a")
    first, second, third = bench.chunk("a")
    item = bench.frontier.item(first)
    members = sorted(item.members)
    result = ItemResult(key=first, end="leased")
    commands = bench.do(ItemEnded("a", result))
    assert WatchLease(first, members) in commands
    assert Notify(ItemDeferred(item)) in commands
    assert item.state is WorkState.LEASED
    assert bench.chunk("a")[0] != first
    commands = bench.do(LeaseEnded(first, members, {first: 71.0}))
    assert commands == [Notify(ItemCommitted(item, members, 71.0))]
    assert item.state is WorkState.FINISHED
    assert bench.frontier.item(second).state is WorkState.READY
    assert bench.frontier.item(third).state is WorkState.WAITING


def test_an_item_whose_lease_expired_is_run_here(bench: Bench) -> None:
    bench.start("a")
    first, *_ = bench.chunk("a")
    bench.report("a", first, "leased")
    bench.do(LeaseEnded(first))
    assert bench.frontier.item(first).state is WorkState.READY


def test_a_store_outage_ends_a_run_whose_remaining_items_are_all_leased(bench: Bench) -> None:
    bench.start("a")
    for _ in range(4):
        bench.report("a", bench.chunk("a")[0], "leased")
    assert not bench.over()
    bench.do(StoreOutage("the store does not answer"))
    assert not bench.over()
    assert bench.assigned["a"] == []
    bench.end("a")
    assert bench.over()
    assert bench.scheduler.outage == "the store does not answer"
    assert not bench.scheduler.exhausted


def test_an_item_that_does_not_commit_all_of_its_trials_has_failed(bench: Bench) -> None:
    bench.start("a")
    first, *_ = bench.chunk("a")
    bench.report("a", first, committed=[])
    assert bench.frontier.item(first).failures == 1


def test_a_broken_process_is_assigned_nothing_more(bench: Bench) -> None:
    bench.start("a")
    bench.report("a", bench.chunk("a")[0], "error", broken=True)
    assert bench.assigned["a"] == []


def test_the_successor_of_a_lost_worker_runs_the_rest_of_its_chunk(bench: Bench) -> None:
    bench.start("a")
    first, *rest = bench.chunk("a")
    bench.report("a", first)
    bench.do(WorkerRestarting("a"))
    assert bench.assigned["a"] is None, "the chunk is withdrawn"
    assert bench.active == []
    bench.do(WorkerStarted("a"))
    assert bench.assigned["a"] == rest
    assert bench.active == rest[:1]


def test_a_failed_item_ends_its_chunk_but_not_the_session(bench: Bench) -> None:
    bench.start("a")
    first, *_ = bench.chunk("a")
    item = bench.frontier.item(first)
    bench.report("a", first, "error")
    assert item.failures == 1
    assert ItemRetried(item, "it broke") in bench.told
    assert bench.running() == set(bench.chunk("a")), "the rest of the failed chunk was requeued"
    bench.do(SessionEnded("a", failed=True))  # now its process has exited
    assert bench.failures() == 2
    assert not bench.running()


def test_an_error_that_repeats_is_not_tried_again_and_blocks_descendants(bench: Bench) -> None:
    bench.start("a")
    first, *rest = bench.chunk("a")
    bench.report("a", first, "error", repeats=True)
    item = bench.frontier.item(first)
    assert item.state is WorkState.FAILED
    assert item.error.startswith("it broke (not retried")
    (failed,) = (event for event in bench.told if isinstance(event, ItemFailed))
    assert [blocked.key for blocked in failed.blocked] == rest
    assert {bench.frontier.item(key).state for key in rest} == {WorkState.BLOCKED}
    assert bench.frontier.counts[WorkState.RUNNING] == 3, "the worker goes on with another chain"


def test_a_lost_node_is_no_failure_until_it_has_happened_often(bench: Bench) -> None:
    bench.request("s0")
    first = next(iter(bench.running()))
    for losses in range(1, MAX_NODE_LOSSES):
        bench.do(WorkerStarted(f"s{losses - 1}"))
        first = bench.chunk(f"s{losses - 1}")[0]
        item = bench.frontier.item(first)
        item.node_losses = losses - 1
        bench.do(NodeLost(f"s{losses - 1}"))
        bench.do(SessionEnded(f"s{losses - 1}", failed=True))
        assert (item.failures, item.node_losses) == (0, losses)
        assert isinstance(bench.told[-1], ItemRequeued)
        bench.request(f"s{losses}")
    last = f"s{MAX_NODE_LOSSES - 1}"
    bench.do(WorkerStarted(last))
    item = bench.frontier.item(bench.chunk(last)[0])
    item.node_losses = MAX_NODE_LOSSES - 1
    bench.do(NodeLost(last))
    bench.do(SessionEnded(last, failed=True))
    assert item.failures == 1
    assert bench.told[-1] == ItemRetried(item, "20 nodes were lost while they ran it")


def test_the_cause_of_a_workers_exit_is_the_error(bench: Bench) -> None:
    for attempt in range(3):
        session = f"s{attempt}"
        bench.start(session)
        item = bench.frontier.item(bench.chunk(session)[0])
        item.failures = attempt
        bench.do(WorkerExited(session, "the worker failed to start: no module"))
        bench.do(SessionEnded(session, failed=True))
    assert item.state is WorkState.FAILED
    assert item.error == "the worker failed to start: no module"
