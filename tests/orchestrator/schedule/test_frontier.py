"""The frontier runs everything once, in order, survives failures, and never stands still."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.graph import Plan
from orchestrator.schedule.batching import next_lane
from orchestrator.schedule.frontier import Frontier, State, Unit
from tests.support.sweeps import document, plan_of, studies


def run_unit(frontier: Frontier, unit: Unit, committed: list[str], plan: Plan) -> None:
    """Commit a unit's members as a worker would: all it needs must be there."""
    for key in sorted(unit.members, key=lambda k: (not plan.trials[k].rides, k)):
        for parent in plan.trials[key].parents:
            rider = plan.trials[key].rides == parent
            assert rider or parent in committed
        committed.append(key)
        frontier.commit(key)


def finish(plan: Plan, frontier: Frontier, *, slots: int = 3) -> list[str]:
    committed: list[str] = []
    while not frontier.settled:
        lane = next_lane(frontier, slots=slots, most=4)
        assert lane, f"nothing is ready: {frontier.counts}"
        for unit in lane:
            run_unit(frontier, unit, committed, plan)
    return committed


@settings(max_examples=40)
@given(studies)
def test_every_trial_is_committed_once_and_after_its_parents(study: dict[str, object]) -> None:
    plan = plan_of(document(**study))
    committed = finish(plan, Frontier(plan))
    assert sorted(committed) == sorted(plan.trials)


@settings(max_examples=40)
@given(studies, st.randoms(use_true_random=False))
def test_whatever_is_committed_already_is_not_run_again(
    study: dict[str, object], chance: random.Random
) -> None:
    plan = plan_of(document(**study))
    order = finish(plan, Frontier(plan))
    done = order[: chance.randrange(len(order) + 1)]
    frontier = Frontier(plan, done)
    committed = list(done)
    while not frontier.settled:
        for unit in next_lane(frontier, slots=2, most=4):
            run_unit(frontier, unit, committed, plan)
    assert sorted(committed) == sorted(plan.trials)


def test_a_finished_plan_is_settled() -> None:
    plan = plan_of(document())
    assert Frontier(plan, plan.trials).settled


def test_a_chain_is_one_lane() -> None:
    plan = plan_of(document(controls=[]))
    lane = next_lane(Frontier(plan), slots=2, most=1)
    assert [plan.trials[unit.head].level for unit in lane] == [0, 1, 2, 3, 4]


def test_a_lane_does_not_take_what_another_lane_must_make_first() -> None:
    """Both rewind points need the one dense run; the second chain waits for the first lane."""
    plan = plan_of(document(rewind=[0, 5], controls=[]))
    frontier = Frontier(plan)
    first = next_lane(frontier, slots=2, most=1)
    assert next_lane(frontier, slots=2, most=1) == []
    run_unit(frontier, first[0], [], plan)
    second = next_lane(frontier, slots=2, most=1)
    assert [plan.trials[unit.head].level for unit in second] == [1, 2, 3, 4]


def test_leaves_are_batched_but_never_so_that_a_slot_starves() -> None:
    plan = plan_of(document(seed=list(range(10)), tickets=[], controls=["random"]))
    frontier = Frontier(plan)
    lengths = []
    while lane := next_lane(frontier, slots=4, most=25):
        lengths.append(len(lane))
    assert max(lengths) > 2
    assert len(lengths) >= 4 * 2
    assert max(lengths) <= sum(lengths) / 4


def test_three_strikes_fail_a_unit_and_block_what_hangs_on_it() -> None:
    plan = plan_of(document(seed=[0, 1], controls=[]))
    frontier = Frontier(plan, strikes=3)
    lane = next_lane(frontier, slots=1, most=1)
    run_unit(frontier, lane[0], [], plan)
    poisoned = lane[1]
    for strikes in range(3):
        assert poisoned.strikes == strikes
        for unit in lane[2:]:
            frontier.put_back(unit)
        frontier.strike(poisoned, "boom")
        if strikes < 2:
            assert poisoned.state is State.READY
            frontier.start([poisoned])
    assert poisoned.state is State.FAILED
    assert frontier.counts[State.BLOCKED] == 3
    finish_rest = list(iter(lambda: next_lane(frontier, slots=1, most=1), []))
    assert [len(lane) for lane in finish_rest] == [5]
    for unit in finish_rest[0]:
        run_unit(frontier, unit, list(plan.trials), plan)
    assert frontier.settled
    assert frontier.counts[State.FINISHED] == 6


def test_a_rewind_point_committed_early_frees_who_waits_for_it_alone() -> None:
    plan = plan_of(document(rewind=5, tickets=["omp"], controls=[]))
    frontier = Frontier(plan)
    dense = next(unit for unit in frontier.units if plan.trials[unit.head].level == 0)
    kept = next(trial.key for trial in plan if trial.kind == "rewind")
    frontier.start([dense])
    for trial in plan:
        if trial.kind == "cut":
            frontier.start([frontier.unit(trial.key)])
            frontier.commit(trial.key)
    assert frontier.counts[State.READY] == 0
    frontier.commit(kept)
    assert frontier.counts[State.READY] == 4
    frontier.strike(dense, "died")
    assert frontier.counts[State.BLOCKED] == 0
