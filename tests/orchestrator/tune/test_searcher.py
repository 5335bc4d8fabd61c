"""Stints: who is handed what, when a worker comes, ends a lane, is lost, or has nothing to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator.errors import StoreUnreachable
from orchestrator.plan.graph import Plan
from orchestrator.schedule.frontier import Frontier, State, Unit
from orchestrator.store.lease_watch import News
from orchestrator.tune import searcher as searchers
from orchestrator.tune.searcher import STINT, PlanSearcher
from tests.support.sweeps import document, plan_of


class Bench:
    """A searcher on four chains of a dense run and two levels, and what it hands to whom."""

    def __init__(self) -> None:
        content = document(seed=[0, 1, 2, 3], schedule={"rate": 0.2, "levels": 2}, controls=[])
        self.plan: Plan = plan_of(content)
        self.frontier = Frontier(self.plan)
        self.handed: dict[str, list[str] | None] = {}
        self.busy: list[str] = []
        """Heads of the first units of the lanes at work."""
        self.searcher = PlanSearcher(
            *(self.frontier, self),
            slots=2,
            most=1,
            say=lambda word: None,
            hand=self.hand,
            lookout=self,  # type: ignore[arg-type]
        )
        self.away = False

    def follow(self, head: str, trials: Iterable[str]) -> None: ...

    def news(self) -> list[News]:
        if self.away:
            raise StoreUnreachable("the store is away")
        return []

    def hand(self, stint: str, lane: list[str] | None) -> None:
        self.handed[stint] = lane

    def started(self, lane: list[Unit]) -> None:
        self.busy.append(lane[0].head)

    def ended(self, lane: list[Unit]) -> None:
        self.busy.remove(lane[0].head)

    def begun(self, unit: Unit) -> None: ...
    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None: ...
    def failed(self, unit: Unit) -> None: ...

    def suggest(self, stint: str) -> None:
        assert self.searcher.suggest(stint) == {STINT: stint}

    def lane(self, stint: str) -> list[str]:
        lane = self.handed[stint]
        assert lane
        return lane

    def report(self, stint: str, head: str, end: str = "whole", **more: Any) -> None:
        members = sorted(self.frontier.unit(head).members) if end == "whole" else []
        result = {"head": head, "end": end, "committed": members, "score": None, "why": "it"}
        result |= {"done": False, "spent": False}
        self.searcher.on_trial_result(stint, result | more)

    def suggest_nothing(self, stint: str) -> None:
        assert self.searcher.suggest(stint) is None

    def end(self, stint: str) -> None:
        """As its worker does that was handed nothing more."""
        result = {"head": "", "end": "idle", "done": True, "spent": False}
        self.searcher.on_trial_complete(stint, result)

    def perform(self, stint: str) -> None:
        for head in self.lane(stint):
            self.report(stint, head)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_worker_is_handed_one_lane_after_another(bench: Bench) -> None:
    bench.suggest("a")
    assert bench.handed == {}, "it has no worker yet"
    bench.searcher.got_worker("a")
    seen = []
    while lane := bench.handed["a"]:
        assert bench.busy == [lane[0]]
        seen += lane
        bench.perform("a")
    assert bench.handed["a"] == [], "all is done: it may go"
    assert sorted(seen) == sorted(unit.head for unit in bench.frontier.units)
    assert bench.frontier.settled
    assert bench.busy == []
    bench.end("a")
    assert bench.searcher.heed()
    assert bench.searcher.suggest("b") == Searcher.FINISHED


def test_who_is_idle_makes_room_for_who_waits_for_a_worker(bench: Bench) -> None:
    """Ray Tune passes the process on, which withdraws the demand for another machine."""
    for stint in "abcd":
        bench.suggest(stint)
    bench.searcher.got_worker("a")
    bench.searcher.got_worker("b")
    bench.perform("a")
    bench.perform("b")
    assert bench.handed == {"a": [], "b": []}, "all that is left is bound to others"
    for gone, come in ("ac", "bd"):
        bench.end(gone)
        bench.searcher.got_worker(come)
        bench.perform(come)
    assert bench.frontier.settled


def test_who_waits_for_long_goes_before_what_is_no_more_urgent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.suggest("a")
    bench.suggest("b")
    bench.searcher.got_worker("a")
    bench.perform("a")
    assert bench.lane("a"), "b may get its worker any moment"
    monkeypatch.setattr(searchers, "OVERDUE_S", -1.0)
    bench.perform("a")
    assert bench.handed["a"] == []


def test_who_has_been_idle_for_long_may_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for stint in "abcd":
        bench.suggest(stint)
        bench.searcher.got_worker(stint)
    bench.perform("a")
    assert bench.handed["a"] != [], "something may come up for it soon"
    monkeypatch.setattr(searchers, "IDLE_S", -1.0)
    assert not bench.searcher.heed()
    assert bench.handed["a"] == []
    assert bench.handed["b"] != []


def test_one_that_dies_idle_costs_nobody_a_strike(bench: Bench) -> None:
    for stint in "abcd":
        bench.suggest(stint)
        bench.searcher.got_worker(stint)
    bench.perform("a")
    bench.searcher.on_trial_complete("a", error=True)
    bench.suggest_nothing("e")
    for stint in "bcd":
        bench.perform(stint)
    assert bench.frontier.settled
    assert not [unit for unit in bench.frontier.units if unit.strikes]


@pytest.mark.parametrize("end", ["stop", "drain"])
def test_at_the_end_of_a_run_nobody_begins_anything(bench: Bench, end: str) -> None:
    for stint in "abcd":
        bench.suggest(stint)
    for stint in "abc":
        bench.searcher.got_worker(stint)
    bench.perform("a")
    bench.searcher.got_worker("d")
    bench.report("d", bench.lane("d")[0], "outage" if end == "drain" else "stopped", done=True)
    bench.searcher.interrupted = end == "stop"
    assert not bench.searcher.heed(), "b and c are still at work"
    assert bench.handed["a"] == []
    assert bench.searcher.suggest("e") == Searcher.FINISHED
    for stint in "bc":
        bench.report(stint, bench.lane(stint)[0], "stopped", done=True)
    for stint in "abcd":
        bench.end(stint)
    assert bench.searcher.heed()
    assert bench.busy == []
    assert not [unit for unit in bench.frontier.units if unit.state is State.RUNNING]


def test_what_another_run_is_at_ends_the_lane_only(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.got_worker("a")
    first, *_ = bench.lane("a")
    bench.report("a", first, "elsewhere")
    assert bench.frontier.unit(first).state is State.ELSEWHERE
    assert bench.lane("a")[0] != first


def test_a_store_that_is_away_while_others_are_at_all_that_is_left_ends_the_run(
    bench: Bench,
) -> None:
    bench.suggest("a")
    bench.searcher.got_worker("a")
    for _ in range(4):
        bench.report("a", bench.lane("a")[0], "elsewhere")
    assert not bench.searcher.heed()
    bench.away = True
    bench.searcher.heed()
    assert bench.handed["a"] == []
    bench.end("a")
    assert bench.searcher.heed()
    assert bench.searcher.outage == "the store is away"


def test_a_unit_that_does_not_commit_all_of_it_is_struck(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.got_worker("a")
    first, *_ = bench.lane("a")
    bench.report("a", first, committed=[])
    assert bench.frontier.unit(first).strikes == 1


def test_a_spent_process_gets_nothing_more(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.got_worker("a")
    bench.report("a", bench.lane("a")[0], "error", spent=True)
    assert bench.handed["a"] == []


def test_a_lost_worker_is_followed_by_one_that_does_the_rest(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.got_worker("a")
    first, *rest = bench.lane("a")
    bench.report("a", first)
    bench.searcher.lost_worker("a")
    assert bench.handed["a"] is None, "what was handed to it is nobody's"
    assert bench.busy == []
    bench.searcher.got_worker("a")
    assert bench.handed["a"] == rest
    assert bench.busy == rest[:1]


def test_a_failed_unit_ends_its_lane_and_not_the_stint(bench: Bench) -> None:
    bench.suggest("a")
    bench.searcher.got_worker("a")
    first, *_ = bench.lane("a")
    bench.report("a", first, "error")
    assert bench.frontier.unit(first).strikes == 1
    running = {unit.head for unit in bench.frontier.units if unit.state is State.RUNNING}
    assert running == set(bench.lane("a")), "what followed the failed one was put back"
    bench.searcher.on_trial_complete("a", error=True)  # now its process has died
    assert sum(unit.strikes for unit in bench.frontier.units) == 2
    assert not [unit for unit in bench.frontier.units if unit.state is State.RUNNING]
