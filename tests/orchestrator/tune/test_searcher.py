"""Which session is assigned which chunk when a worker starts, ends a chunk, is lost or is idle."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.errors import StoreUnreachable
from orchestrator.plan.graph import Plan
from orchestrator.schedule.frontier import Frontier, WorkItem, WorkState
from orchestrator.store.lease_watch import LeaseEvent
from orchestrator.tune import searcher
from orchestrator.tune.searcher import SESSION, PlanSearcher
from tests.support.sweeps import plan_of, sweep_document


class Bench:
    """A searcher on four chains of a dense run and two levels, and the chunks that it assigns."""

    def __init__(self) -> None:
        content = sweep_document(
            seed=[0, 1, 2, 3], schedule={"rate": 0.2, "levels": 2}, controls=[]
        )
        self.plan: Plan = plan_of(content)
        self.frontier = Frontier(self.plan)
        self.assigned: dict[str, list[str] | None] = {}
        self.active: list[str] = []
        """Keys of the first items of the active chunks."""
        self.searcher = PlanSearcher(
            *(self.frontier, self),
            slots=2,
            max_leaves=1,
            send=lambda command: None,
            assign=self.assign,
            lease_watcher=self,  # type: ignore[arg-type]
        )
        self.unreachable = False

    def watch(self, key: str, trials: Iterable[str]) -> None: ...

    def events(self) -> list[LeaseEvent]:
        if self.unreachable:
            raise StoreUnreachable("the store does not answer")
        return []

    def assign(self, session: str, keys: list[str] | None) -> None:
        self.assigned[session] = keys

    def chunk_started(self, chunk: list[WorkItem]) -> None:
        self.active.append(chunk[0].key)

    def chunk_ended(self, chunk: list[WorkItem]) -> None:
        self.active.remove(chunk[0].key)

    def item_started(self, item: WorkItem) -> None: ...
    def item_committed(self, item: WorkItem, keys: list[str], score: float | None) -> None: ...
    def item_failed(self, item: WorkItem) -> None: ...

    def suggest(self, session: str) -> None:
        assert self.searcher.suggest(session) == {SESSION: session}

    def suggest_nothing(self, session: str) -> None:
        assert self.searcher.suggest(session) is None

    def chunk(self, session: str) -> list[str]:
        keys = self.assigned[session]
        assert keys
        return keys

    def report(self, session: str, key: str, end: str = "complete", **changes: Any) -> None:
        members = sorted(self.frontier.item(key).members) if end == "complete" else []
        result = {"key": key, "end": end, "committed": members, "score": None, "error": "error"}
        result |= {"done": False, "broken": False}
        self.searcher.on_trial_result(session, result | changes)

    def end(self, session: str) -> None:
        """Report the end of a session, as its worker does after an empty chunk."""
        result = {"key": "", "end": "idle", "done": True, "broken": False}
        self.searcher.on_trial_complete(session, result)

    def perform(self, session: str) -> None:
        for key in self.chunk(session):
            self.report(session, key)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_worker_is_assigned_one_chunk_after_another(bench: Bench) -> None:
    bench.suggest("a")
    assert bench.assigned == {}, "it has no worker yet"
    bench.searcher.on_worker_started("a")
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
    assert bench.searcher.process_events()
    assert bench.searcher.suggest("b") == Searcher.FINISHED


def test_an_idle_worker_is_released_for_a_session_that_waits_for_one(bench: Bench) -> None:
    """Ray Tune gives it the process and withdraws the request for another machine."""
    for session in "abcd":
        bench.suggest(session)
    bench.searcher.on_worker_started("a")
    bench.searcher.on_worker_started("b")
    bench.perform("a")
    bench.perform("b")
    assert bench.assigned == {"a": [], "b": []}, "all remaining chunks belong to other sessions"
    for ended, started in ("ac", "bd"):
        bench.end(ended)
        bench.searcher.on_worker_started(started)
        bench.perform(started)
    assert bench.frontier.settled


def test_an_overdue_session_goes_before_ready_items_that_are_not_more_urgent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.suggest("a")
    bench.suggest("b")
    bench.searcher.on_worker_started("a")
    bench.perform("a")
    assert bench.chunk("a"), "b may get its worker at any moment"
    monkeypatch.setattr(searcher, "OVERDUE_S", -1.0)
    bench.perform("a")
    assert bench.assigned["a"] == []


@pytest.mark.parametrize(("start_s", "overdue"), [(0.0, True), (600.0, False)])
def test_many_sessions_that_start_at_once_may_take_longer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, start_s: float, overdue: bool
) -> None:
    monkeypatch.setattr(searcher, "OVERDUE_S", -1.0)
    monkeypatch.setattr(searcher, "START_S", start_s)
    for session in "abc":
        bench.suggest(session)
    bench.searcher.on_worker_started("a")
    bench.perform("a")
    assert (bench.assigned["a"] == []) == overdue


def test_a_worker_that_has_been_idle_for_long_is_released(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session in "abcd":
        bench.suggest(session)
        bench.searcher.on_worker_started(session)
    bench.perform("a")
    assert bench.assigned["a"] != [], "an item may become ready for it soon"
    monkeypatch.setattr(searcher, "MAX_IDLE_S", -1.0)
    assert not bench.searcher.process_events()
    assert bench.assigned["a"] == []
    assert bench.assigned["b"] != []


def test_the_exit_of_an_idle_worker_is_not_a_failure_of_any_item(bench: Bench) -> None:
    for session in "abcd":
        bench.suggest(session)
        bench.searcher.on_worker_started(session)
    bench.perform("a")
    bench.searcher.on_trial_complete("a", error=True)
    bench.suggest_nothing("e")
    for session in "bcd":
        bench.perform(session)
    assert bench.frontier.settled
    assert not [item for item in bench.frontier.items if item.failures]


@pytest.mark.parametrize("end", ["stop", "drain"])
def test_nothing_starts_at_the_end_of_a_run(bench: Bench, end: str) -> None:
    for session in "abcd":
        bench.suggest(session)
    for session in "abc":
        bench.searcher.on_worker_started(session)
    bench.perform("a")
    bench.searcher.on_worker_started("d")
    bench.report("d", bench.chunk("d")[0], "outage" if end == "drain" else "stopped", done=True)
    bench.searcher.interrupted = end == "stop"
    assert not bench.searcher.process_events(), "b and c are still running"
    assert bench.assigned["a"] == []
    assert bench.searcher.suggest("e") == Searcher.FINISHED
    for session in "bc":
        bench.report(session, bench.chunk(session)[0], "stopped", done=True)
    for session in "abcd":
        bench.end(session)
    assert bench.searcher.process_events()
    assert bench.active == []
    assert not [item for item in bench.frontier.items if item.state is WorkState.RUNNING]


def test_an_item_leased_by_another_run_ends_its_chunk_but_not_the_session(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.on_worker_started("a")
    first, *_ = bench.chunk("a")
    bench.report("a", first, "leased")
    assert bench.frontier.item(first).state is WorkState.LEASED
    assert bench.chunk("a")[0] != first


def test_a_store_outage_ends_a_run_whose_remaining_items_are_all_leased(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.on_worker_started("a")
    for _ in range(4):
        bench.report("a", bench.chunk("a")[0], "leased")
    assert not bench.searcher.process_events()
    bench.unreachable = True
    bench.searcher.process_events()
    assert bench.assigned["a"] == []
    bench.end("a")
    assert bench.searcher.process_events()
    assert bench.searcher.outage == "the store does not answer"


def test_an_item_that_does_not_commit_all_of_its_trials_has_failed(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.on_worker_started("a")
    first, *_ = bench.chunk("a")
    bench.report("a", first, committed=[])
    assert bench.frontier.item(first).failures == 1


def test_a_broken_process_is_assigned_nothing_more(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.on_worker_started("a")
    bench.report("a", bench.chunk("a")[0], "error", broken=True)
    assert bench.assigned["a"] == []


def test_the_successor_of_a_lost_worker_runs_the_rest_of_its_chunk(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.on_worker_started("a")
    first, *rest = bench.chunk("a")
    bench.report("a", first)
    bench.searcher.on_worker_restarting("a")
    assert bench.assigned["a"] is None, "the chunk is withdrawn"
    assert bench.active == []
    bench.searcher.on_worker_started("a")
    assert bench.assigned["a"] == rest
    assert bench.active == rest[:1]


def test_a_failed_item_ends_its_chunk_but_not_the_session(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.on_worker_started("a")
    first, *_ = bench.chunk("a")
    bench.report("a", first, "error")
    assert bench.frontier.item(first).failures == 1
    running = {item.key for item in bench.frontier.items if item.state is WorkState.RUNNING}
    assert running == set(bench.chunk("a")), "the rest of the failed chunk was requeued"
    bench.searcher.on_trial_complete("a", error=True)  # now its process has exited
    assert sum(item.failures for item in bench.frontier.items) == 2
    assert not [item for item in bench.frontier.items if item.state is WorkState.RUNNING]
