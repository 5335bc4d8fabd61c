"""Stints: who is handed what, when a worker comes, ends a lane, is lost, or has nothing to do."""

from __future__ import annotations

from typing import Any

import pytest
from ray.tune.search import Searcher

from orchestrator import searcher as searchers
from orchestrator.frontier import Frontier, State, Unit
from orchestrator.plan import Plan
from orchestrator.searcher import STINT, PlanSearcher
from tests.orchestrator.sweeps import document, plan_of


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
            self.frontier, self, slots=2, most=1, say=lambda word: None, hand=self.hand
        )

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
        result = {"head": head, "end": end, "committed": members, "why": "", "done": False}
        self.searcher.on_trial_result(stint, result | more)

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
    bench.searcher.on_trial_complete("a", {"head": "", "end": "idle", "done": True})
    assert bench.searcher.heed()
    assert bench.searcher.suggest("b") == Searcher.FINISHED


def test_who_is_idle_takes_the_lane_of_who_waits_for_a_worker(bench: Bench) -> None:
    """Else a lane would wait for a machine that may never come, beside one with nothing to do."""
    stints = ("a", "b", "c", "d")
    for stint in stints:
        bench.suggest(stint)
    bench.searcher.got_worker("a")
    for _ in stints:
        bench.perform("a")
    assert bench.frontier.settled
    assert bench.handed == {"a": []}


def test_who_has_been_idle_for_long_may_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for stint in ("a", "b", "c", "d", "e"):
        if stint != "e":
            bench.suggest(stint)
            bench.searcher.got_worker(stint)
    bench.perform("a")
    assert bench.handed["a"] != [], "something may come up for it soon"
    monkeypatch.setattr(searchers, "IDLE_S", -1.0)
    assert not bench.searcher.heed()
    assert bench.handed["a"] == []
    assert bench.handed["b"] != []


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
    second = bench.lane("a")
    states = {unit.head: unit.state for unit in bench.frontier.units}
    assert [head for head in states if states[head] is State.RUNNING] == sorted(
        second, key=list(states).index
    ), "what followed the failed one was put back"
    bench.searcher.on_trial_complete("a", error=True)  # now its process has died
    assert sum(unit.strikes for unit in bench.frontier.units) == 2
    assert not [unit for unit in bench.frontier.units if unit.state is State.RUNNING]
