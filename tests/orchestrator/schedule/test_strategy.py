"""Which trials a strategy makes wanted, as results come, and which are skipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pytest

from orchestrator.errors import InputError
from orchestrator.plan.counts import count_plan, remaining_runs
from orchestrator.plan.graph import Plan
from orchestrator.schedule.commands import (
    AssignChunk,
    Finish,
    Notify,
    ReleaseWorker,
    SendCommand,
)
from orchestrator.schedule.events import (
    Event,
    ItemEnded,
    ItemResult,
    LeaseEnded,
    SessionRequested,
    Tick,
    WorkerStarted,
)
from orchestrator.schedule.failures import LimitedRetries
from orchestrator.schedule.frontier import Frontier, WorkState
from orchestrator.schedule.run_events import ItemsSkipped, ItemsWanted, RunEvent
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.strategy import (
    ALL,
    STRATEGIES,
    StrategyEntry,
    StrategyState,
    skipped_trials,
)
from orchestrator.sweep.config import Sweep
from tests.support.plugins import registered
from tests.support.sweeps import plan_of, sweep_document


@dataclass(frozen=True)
class UntilBelow:
    """Wants the cells of each source level by level, until one scores below `line`."""

    line: float

    def wanted(self, plan: Plan, results: Mapping[str, float]) -> Iterable[str]:
        stopped = set()
        for cell in sorted(plan.cells, key=lambda cell: cell.level):
            if cell.curve.source not in stopped:
                yield cell.trial
                if results.get(cell.trial, 0.0) < self.line:
                    stopped.add(cell.curve.source)


class Run:
    """One worker on a plan of a chain of four levels, with a random control at each level."""

    def __init__(self, state: StrategyState | None, frontier: Frontier) -> None:
        self.frontier = frontier
        self.scheduler = Scheduler(
            frontier, slots=1, max_leaves=1, failures=LimitedRetries(3), strategy=state
        )
        self.told: list[RunEvent] = []
        self.chunk: list[str] | None = None

    def do(self, event: Event) -> None:
        for command in self.scheduler.handle(event, 0.0):
            match command:
                case AssignChunk(_, keys):
                    self.chunk = list(keys)
                case ReleaseWorker():
                    self.chunk = None
                case Notify(event):
                    self.told.append(event)

    def finish(self, score: Mapping[str, float]) -> list[str]:
        """Run everything that is wanted; return the keys of all committed trials."""
        committed: list[str] = []
        self.do(SessionRequested("a"))
        self.do(WorkerStarted("a"))
        while self.chunk:
            key = self.chunk.pop(0)
            members = sorted(self.frontier.item(key).members)
            committed += members
            result = ItemResult(key=key, end="complete", committed=members, score=score.get(key))
            self.do(ItemEnded("a", result))
        self.do(Tick())
        assert self.scheduler.handle(SessionRequested("b"), 0.0) == [Finish()]
        return committed


@pytest.fixture
def plan() -> Plan:
    return plan_of(sweep_document(controls=["random"]))


def scores_by_level(plan: Plan) -> dict[str, float]:
    """90, and 15 less at each level."""
    return {trial.key: 90.0 - 15 * trial.level for trial in plan.training_runs()}


def levels(plan: Plan, keys: Iterable[str], source: str) -> set[int]:
    wanted = set(keys)
    return {c.level for c in plan.cells if c.curve.source == source and c.trial in wanted}


def test_more_trials_become_wanted_with_each_result(plan: Plan) -> None:
    scores = scores_by_level(plan)
    state = StrategyState(plan, UntilBelow(50.0))
    run = Run(state, Frontier(plan, wanted=state.wanted()))
    committed = run.finish(scores)
    assert levels(plan, committed, "imp") == levels(plan, committed, "random") == {1, 2, 3}
    assert isinstance(run.told[0], ItemsSkipped)
    assert sum(isinstance(event, ItemsWanted) for event in run.told) >= 3
    counts = run.frontier.counts
    assert run.frontier.settled
    assert counts[WorkState.FINISHED] + counts[WorkState.SKIPPED] == len(run.frontier.items)
    assert counts[WorkState.SKIPPED] > 0


def test_a_later_run_goes_on_from_the_results_and_the_whole_grid_repeats_nothing(
    plan: Plan,
) -> None:
    scores = scores_by_level(plan)
    state = StrategyState(plan, UntilBelow(80.0))
    committed = Run(state, Frontier(plan, wanted=state.wanted())).finish(scores)
    known = {key: scores[key] for key in committed if key in scores}
    assert levels(plan, committed, "imp") == {1}
    lower = StrategyState(plan, UntilBelow(70.0), known)
    more = Run(lower, Frontier(plan, committed, wanted=lower.wanted())).finish(scores)
    assert levels(plan, more, "imp") == {2}
    whole = StrategyState(plan, ALL)
    rest = Run(whole, Frontier(plan, committed + more, wanted=whole.wanted())).finish(scores)
    assert sorted(committed + more + rest) == sorted(plan.trials)


def test_a_score_of_another_run_makes_trials_wanted(plan: Plan) -> None:
    state = StrategyState(plan, UntilBelow(50.0))
    run = Run(state, Frontier(plan, wanted=state.wanted()))
    run.do(SessionRequested("a"))
    run.do(WorkerStarted("a"))
    assert run.chunk is not None
    dense, first = run.chunk[:2]
    members = sorted(run.frontier.item(dense).members)
    run.do(ItemEnded("a", ItemResult(key=dense, end="complete", committed=members)))
    run.do(ItemEnded("a", ItemResult(key=first, end="leased")))
    before = run.frontier.counts[WorkState.SKIPPED]
    members = sorted(run.frontier.item(first).members)
    run.do(LeaseEnded(first, members, {first: 90.0}))
    assert run.frontier.counts[WorkState.SKIPPED] == before - 1


def test_skipped_trials_follow_from_the_results_alone(plan: Plan) -> None:
    assert skipped_trials(plan, (), ALL, {}) == frozenset()
    scores = scores_by_level(plan)
    dense = {key: score for key, score in scores.items() if score == 90.0}
    skipped = skipped_trials(plan, dense, UntilBelow(50.0), dense)
    assert levels(plan, skipped, "imp") == {2, 3, 4}
    counts = count_plan(plan, dense, {"uniter-tiny": {"encoder+pooler": 100}}, skipped)
    assert counts.skipped_runs == 6
    assert counts.new_runs == 2, "level 1 of the chain and of the control"
    left = remaining_runs(plan, dense, skipped)
    assert {trial.level for trial in left} == {0, 1}, "the dense run is replayed for its ticket"
    assert counts.replays == 1


def test_a_strategy_from_outside_has_a_name_and_wants_only_trials_of_the_plan(plan: Plan) -> None:
    class Wrong:
        def wanted(self, plan: Plan, results: Mapping[str, float]) -> Iterable[str]:
            return ["0123456789abcdef"]

    sweep = Sweep.model_validate(sweep_document() | {"strategy": "wrong"})
    with registered(STRATEGIES, "wrong", StrategyEntry(create=lambda sweep: Wrong())):
        strategy = STRATEGIES[sweep.strategy].create(sweep)
        with pytest.raises(InputError, match=r"Wrong wants '0123456789ab'.* no trial of test"):
            StrategyState(plan, strategy).wanted()


class FailsLater:
    """Wants the dense runs; fails once there is a result."""

    def wanted(self, plan: Plan, results: Mapping[str, float]) -> Iterable[str]:
        if results:
            raise ValueError(f"{max(results.values())} is\nunexpected")
        return [cell.trial for cell in plan.cells if not cell.level]


def test_a_strategy_that_fails_stops_the_run_with_the_cause(plan: Plan) -> None:
    state = StrategyState(plan, FailsLater())
    run = Run(state, Frontier(plan, wanted=state.wanted()))
    run.do(SessionRequested("a"))
    run.do(WorkerStarted("a"))
    assert run.chunk is not None
    members = sorted(run.frontier.item(run.chunk[0]).members)
    ended = ItemResult(key=run.chunk[0], end="complete", committed=members, score=90.0)
    commands = run.scheduler.handle(ItemEnded("a", ended), 0.0)
    assert SendCommand("stop") in commands, "the running trials save their state"
    assert "strategy FailsLater: ValueError: 90.0 is at line" in run.scheduler.error
