"""The frontier runs every trial once, in order, survives failures, and never deadlocks."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.graph import Plan
from orchestrator.schedule.batching import next_chunk
from orchestrator.schedule.frontier import Frontier, WorkItem, WorkState
from tests.support.sweeps import plan_of, studies, sweep_document


def run_item(frontier: Frontier, item: WorkItem, committed: list[str], plan: Plan) -> None:
    """Commit an item's members as a worker would; the trials they need must be committed."""
    for key in sorted(item.members, key=lambda k: (not plan.trials[k].produced_by, k)):
        for parent in plan.trials[key].parents:
            by_product = plan.trials[key].produced_by == parent
            assert by_product or parent in committed
        committed.append(key)
        frontier.commit(key)


def run_to_end(plan: Plan, frontier: Frontier, *, slots: int = 3) -> list[str]:
    committed: list[str] = []
    while not frontier.settled:
        chunk = next_chunk(frontier, slots=slots, max_leaves=4)
        assert chunk, f"nothing is ready: {frontier.counts}"
        for item in chunk:
            run_item(frontier, item, committed, plan)
    return committed


@settings(max_examples=40)
@given(studies)
def test_every_trial_is_committed_once_and_after_its_parents(study: dict[str, object]) -> None:
    plan = plan_of(sweep_document(**study))
    committed = run_to_end(plan, Frontier(plan))
    assert sorted(committed) == sorted(plan.trials)


@settings(max_examples=40)
@given(studies, st.randoms(use_true_random=False))
def test_committed_trials_are_not_run_again(study: dict[str, object], rng: random.Random) -> None:
    plan = plan_of(sweep_document(**study))
    order = run_to_end(plan, Frontier(plan))
    done = order[: rng.randrange(len(order) + 1)]
    frontier = Frontier(plan, done)
    committed = list(done)
    while not frontier.settled:
        for item in next_chunk(frontier, slots=2, max_leaves=4):
            run_item(frontier, item, committed, plan)
    assert sorted(committed) == sorted(plan.trials)


def test_a_finished_plan_is_settled() -> None:
    plan = plan_of(sweep_document())
    assert Frontier(plan, plan.trials).settled


def test_a_chain_is_one_chunk() -> None:
    plan = plan_of(sweep_document(controls=[]))
    chunk = next_chunk(Frontier(plan), slots=2, max_leaves=1)
    assert [plan.trials[item.key].level for item in chunk] == [0, 1, 2, 3, 4]


def test_a_chunk_leaves_out_items_that_need_another_chunk() -> None:
    """Both rewind points need the one dense run; the second chain waits for the first chunk."""
    plan = plan_of(sweep_document(rewind=[0, 5], controls=[]))
    frontier = Frontier(plan)
    first = next_chunk(frontier, slots=2, max_leaves=1)
    assert next_chunk(frontier, slots=2, max_leaves=1) == []
    run_item(frontier, first[0], [], plan)
    second = next_chunk(frontier, slots=2, max_leaves=1)
    assert [plan.trials[item.key].level for item in second] == [1, 2, 3, 4]


def test_leaves_are_batched_but_no_slot_starves() -> None:
    plan = plan_of(sweep_document(seed=list(range(10)), tickets=[], controls=["random"]))
    frontier = Frontier(plan)
    lengths = []
    while chunk := next_chunk(frontier, slots=4, max_leaves=25):
        lengths.append(len(chunk))
    assert max(lengths) > 2
    assert len(lengths) >= 4 * 2
    assert max(lengths) <= sum(lengths) / 4


def test_an_item_that_is_given_up_blocks_its_descendants_only() -> None:
    plan = plan_of(sweep_document(seed=[0, 1], controls=[]))
    frontier = Frontier(plan)
    chunk = next_chunk(frontier, slots=1, max_leaves=1)
    run_item(frontier, chunk[0], [], plan)
    failing = chunk[1]
    for item in chunk[1:]:
        frontier.requeue(item)
    assert failing.state is WorkState.READY
    frontier.start([failing])
    assert frontier.fail(failing, "boom") == chunk[2:]
    assert failing.state is WorkState.FAILED
    assert frontier.counts[WorkState.BLOCKED] == 3
    rest = list(iter(lambda: next_chunk(frontier, slots=1, max_leaves=1), []))
    assert [len(chunk) for chunk in rest] == [5]
    for item in rest[0]:
        run_item(frontier, item, list(plan.trials), plan)
    assert frontier.settled
    assert frontier.counts[WorkState.FINISHED] == 6


def test_only_what_wanted_trials_need_runs_and_the_rest_is_skipped() -> None:
    plan = plan_of(sweep_document(seed=[0, 1], controls=["random"]))
    second = next(t.key for t in plan.training_runs() if t.level == 2)
    frontier = Frontier(plan, wanted=[second])
    committed = []
    while not frontier.settled:
        for item in next_chunk(frontier, slots=1, max_leaves=1):
            run_item(frontier, item, committed, plan)
    assert {plan.trials[key].level for key in committed if plan.trials[key].kind == "train"} == {
        *(0, 1, 2)
    }
    assert frontier.counts[WorkState.SKIPPED] > 0
    again = Frontier(plan, committed, wanted=plan.trials)
    while not again.settled:
        for item in next_chunk(again, slots=1, max_leaves=1):
            run_item(again, item, committed, plan)
    assert sorted(committed) == sorted(plan.trials), "each once, by-products included"


def test_an_item_that_is_wanted_after_a_parent_failed_is_blocked() -> None:
    plan = plan_of(sweep_document(controls=[]))
    chain = [t.key for t in plan.training_runs()]
    frontier = Frontier(plan, wanted=chain[:2])
    dense, first, *later = (frontier.item(key) for key in chain)
    assert {item.state for item in later} == {WorkState.SKIPPED}
    frontier.start([dense])
    assert frontier.fail(dense, "boom") == [first]
    assert frontier.settled
    assert {item.key for item in frontier.want(chain)} == set(chain[2:])
    assert {item.state for item in later} == {WorkState.BLOCKED}
    assert frontier.settled


def test_an_early_rewind_point_makes_the_items_that_need_only_it_ready() -> None:
    plan = plan_of(sweep_document(rewind=5, tickets=["omp"], controls=[]))
    frontier = Frontier(plan)
    dense = next(item for item in frontier.items if plan.trials[item.key].level == 0)
    rewind_point = next(trial.key for trial in plan if trial.kind == "rewind")
    frontier.start([dense])
    for trial in plan:
        if trial.kind == "prune":
            frontier.start([frontier.item(trial.key)])
            frontier.commit(trial.key)
    assert frontier.counts[WorkState.READY] == 0
    frontier.commit(rewind_point)
    assert frontier.counts[WorkState.READY] == 4
    assert frontier.fail(dense, "died") == []
