"""The searcher passes Ray Tune's calls to the scheduler, and carries out its commands."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from ray.tune.search import Searcher

from orchestrator.errors import StoreUnreachable
from orchestrator.schedule.commands import WorkerCommand
from orchestrator.schedule.events import ItemEnd, ItemResult, WorkerRestarting, WorkerStarted
from orchestrator.schedule.failures import LimitedRetries
from orchestrator.schedule.frontier import Frontier, WorkState
from orchestrator.schedule.run_events import ItemCommitted, ItemDeferred, RunEvent
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.store.lease_watch import LeaseEvent
from orchestrator.tune.searcher import RESULT, SESSION, PlanSearcher
from tests.support.sweeps import plan_of, sweep_document


class Bench:
    """A searcher on one chain of a dense run and two levels, and what it does."""

    def __init__(self) -> None:
        plan = plan_of(sweep_document(schedule={"rate": 0.2, "levels": 2}, controls=[]))
        self.frontier = Frontier(plan)
        self.scheduler = Scheduler(
            self.frontier, slots=2, max_leaves=1, failures=LimitedRetries(max_failures=3)
        )
        self.assigned: list[tuple[str, list[str] | None]] = []
        self.sent: list[WorkerCommand] = []
        self.told: list[RunEvent] = []
        self.watched: dict[str, list[str]] = {}
        self.lease_events: list[LeaseEvent] = []
        self.unreachable = self.spent = False
        self.searcher = PlanSearcher(
            self.scheduler,
            self,
            send=self.sent.append,
            assign=lambda session, keys: self.assigned.append((session, keys)),
            lease_watcher=self,  # type: ignore[arg-type]
            budget=self,
        )

    def watch(self, key: str, trials: Iterable[str]) -> None:
        self.watched[key] = list(trials)

    def events(self) -> list[LeaseEvent]:
        if self.unreachable:
            raise StoreUnreachable("the store does not answer")
        return self.lease_events

    def exhausted(self) -> bool:
        return self.spent

    def on_event(self, event: RunEvent) -> None:
        self.told.append(event)

    def start(self, session: str) -> list[str]:
        """Start a session with a worker; return the keys of its chunk."""
        assert self.searcher.suggest(session) == {SESSION: session}
        self.searcher.handle(WorkerStarted(session))
        assigned_to, keys = self.assigned[-1]
        assert assigned_to == session
        assert keys
        return keys

    def report(self, session: str, key: str, end: ItemEnd = "complete") -> None:
        members = sorted(self.frontier.item(key).members) if end == "complete" else []
        result = ItemResult(key=key, end=end, committed=members)
        self.searcher.on_trial_result(session, {RESULT: result, "done": False})


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_sessions_are_started_while_there_is_work_and_finished_at_its_end(bench: Bench) -> None:
    keys = bench.start("a")
    assert bench.searcher.suggest("b") is None, "all work is in a's chunk"
    for key in keys:
        assert not bench.searcher.process_events()
        bench.report("a", key)
    assert bench.assigned[-1] == ("a", []), "the session ends"
    idle = ItemResult(end="idle", last=True)
    bench.searcher.on_trial_complete("a", {RESULT: idle, "done": True})
    assert bench.searcher.process_events()
    assert bench.searcher.suggest("b") == Searcher.FINISHED
    assert [e.item.key for e in bench.told if isinstance(e, ItemCommitted)] == keys


def test_the_chunk_of_a_lost_worker_is_withdrawn(bench: Bench) -> None:
    bench.start("a")
    bench.searcher.handle(WorkerRestarting("a"))
    assert bench.assigned[-1] == ("a", None)


def test_a_session_that_ends_with_an_error_is_a_failure_of_its_item(bench: Bench) -> None:
    first, *_ = bench.start("a")
    bench.searcher.on_trial_complete("a", error=True)
    assert bench.frontier.item(first).failures == 1


def test_items_of_other_runs_are_watched_until_they_are_committed(bench: Bench) -> None:
    first, *_ = bench.start("a")
    bench.report("a", first, "leased")
    assert ItemDeferred(bench.frontier.item(first)) in bench.told
    trials = bench.watched[first]
    bench.lease_events = [LeaseEvent(first, tuple(trials), {first: 50.0})]
    bench.searcher.process_events()
    assert bench.frontier.item(first).state is WorkState.FINISHED
    assert ItemCommitted(bench.frontier.item(first), tuple(trials), 50.0) in bench.told


def test_an_outage_of_the_watched_store_drains_the_run(bench: Bench) -> None:
    bench.start("a")
    bench.unreachable = True
    assert not bench.searcher.process_events()
    assert bench.sent == ["drain"]
    assert bench.scheduler.outage == "the store does not answer"


def test_a_spent_budget_drains_the_run_and_an_interrupt_stops_it(bench: Bench) -> None:
    bench.start("a")
    bench.spent = True
    bench.searcher.process_events()
    bench.searcher.process_events()
    assert bench.sent == ["drain"]
    assert bench.scheduler.exhausted
    bench.searcher.interrupted = True
    bench.searcher.process_events()
    assert bench.sent == ["drain", "stop"]
