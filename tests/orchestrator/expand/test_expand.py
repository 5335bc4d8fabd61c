"""Plans share equal trials, count what they share, and have no cycles."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.plan.counts import count_plan, critical_path, training_ancestry
from orchestrator.plan.graph import DENSE
from orchestrator.plan.work import work_of
from orchestrator.schedule.frontier import Frontier
from orchestrator.store.record import Record
from tests.support.sweeps import CONTROLS, STUDY, plan_of, studies, sweep_document
from trainables.spec import PruneSpec, RewindSpec, TrainSpec

POOLS = {"uniter-tiny": {"encoder+pooler": 102_400}}


@settings(max_examples=60)
@given(studies)
def test_parents_come_before_children_and_sharing_never_adds_runs(study: dict[str, Any]) -> None:
    plan = plan_of(sweep_document(**study))
    seen: set[str] = set()
    for trial in plan:
        assert set(trial.parents) <= seen
        assert not trial.produced_by or trial.produced_by in trial.parents
        seen.add(trial.key)
    counts = count_plan(plan, {}, POOLS)
    assert counts.training_runs <= counts.naive_training_runs
    assert counts.training_runs == counts.new_runs == counts.trials_by_kind["train"]
    assert counts.critical_path <= max(len(training_ancestry(plan, c.trial)) for c in plan.cells)
    needed = set().union(*(training_ancestry(plan, cell.trial) for cell in plan.cells))
    assert needed == {trial.key for trial in plan.training_runs()}


@settings(max_examples=20)
@given(studies)
def test_expansion_depends_on_the_file_only(study: dict[str, Any]) -> None:
    first, second = plan_of(sweep_document(**study)), plan_of(sweep_document(**study))
    assert list(first.trials) == list(second.trials)
    assert first.cells == second.cells


@settings(max_examples=30)
@given(st.lists(studies, min_size=2, max_size=4))
def test_a_study_has_the_same_cells_alone_and_beside_others(several: list[dict[str, Any]]) -> None:
    named = {f"study{index}": STUDY | study for index, study in enumerate(several)}
    together = plan_of(sweep_document() | {"studies": named})
    alone = [plan_of(sweep_document() | {"studies": {name: named[name]}}) for name in named]
    assert together.cells == tuple(cell for plan in alone for cell in plan.cells)
    assert together.trials.keys() == set().union(*(plan.trials for plan in alone))


def test_a_chain_shares_its_prefix() -> None:
    """Levels 0 to 4 of one chain take 5 runs; without sharing, its cells take 1+2+3+4+5."""
    counts = count_plan(plan_of(sweep_document(controls=[])), {}, POOLS)
    assert (
        counts.cells,
        counts.training_runs,
        counts.naive_training_runs,
        counts.critical_path,
    ) == (5, 5, 15, 5)
    assert counts.trials_by_kind == {"train": 5, "prune": 4}


def test_nine_linear_levels_take_ten_runs() -> None:
    """One task: 9 ticket cells and a dense one take 54 + 1 runs without sharing, 10 with it."""
    plan = plan_of(sweep_document(controls=[], schedule={"rate": 0.1, "levels": 9}))
    counts = count_plan(plan, {}, POOLS)
    assert (counts.training_runs, counts.naive_training_runs) == (10, 55)


def test_rewinding_shares_the_dense_run() -> None:
    plan = plan_of(sweep_document(rewind=[0, 3, 5], controls=[]))
    dense = {cell.trial for cell in plan.cells if cell.curve.source == DENSE}
    rewinds = [trial for trial in plan if isinstance(trial.spec, RewindSpec)]
    assert len(dense) == 1
    assert {trial.produced_by for trial in rewinds} == dense
    assert {trial.spec.step for trial in rewinds if isinstance(trial.spec, RewindSpec)} == {3, 5}
    assert sum(1 for _ in plan.training_runs()) == 1 + 3 * 4


def test_a_rewound_run_trains_the_full_schedule_or_the_remaining_steps() -> None:
    def first_steps(rewind_schedule: str) -> set[int]:
        plan = plan_of(sweep_document(rewind=4, controls=[], rewind_schedule=rewind_schedule))
        specs = [t.spec for t in plan if isinstance(t.spec, TrainSpec) and t.spec.ticket]
        return {spec.first_step for spec in specs}

    assert first_steps("full") == {0}
    assert first_steps("remaining") == {4}


def test_transfer_trains_the_target_task_under_the_source_tasks_ticket() -> None:
    content = sweep_document(task=["left", "right"], tickets=["imp", "transfer"], controls=[])
    content["tasks"] = {
        "left": {"task": "easy_vqa", "data": "/left"},
        "right": {"task": "easy_vqa", "data": "/right"},
    }
    plan = plan_of(content)
    counts = count_plan(plan, {}, POOLS)
    # Two chains of 5, and 4 levels each way. Without sharing, a transfer at level k takes k + 1
    # runs.
    assert (counts.training_runs, counts.naive_training_runs) == (2 * 5 + 2 * 4, 2 * 15 + 2 * 14)
    transferred = [cell for cell in plan.cells if cell.curve.source == "transfer:left"]
    assert {cell.curve.task for cell in transferred} == {"right"}
    source = {
        c.level: c.ticket for c in plan.cells if c.curve.task == "left" and c.curve.source == "imp"
    }
    assert {cell.level: cell.ticket for cell in transferred} == source


def test_zipped_axes_vary_together_in_transfers_too() -> None:
    content = sweep_document(
        task=["left", "right"],
        recipe=["short", "long"],
        zip=[["task", "recipe"]],
        tickets=["transfer"],
        controls=[],
    )
    content["tasks"] = {
        "left": {"task": "easy_vqa", "data": "/left"},
        "right": {"task": "easy_vqa", "data": "/right"},
    }
    content["recipes"]["long"] = {"steps": 20}
    plan = plan_of(content)
    pairs = {(cell.curve.task, cell.curve.recipe) for cell in plan.cells}
    assert pairs == {("left", "short"), ("right", "long")}
    for trial in plan:
        if isinstance(trial.spec, TrainSpec):
            assert trial.spec.recipe.steps == {"left": 10, "right": 20}[trial.task]


def test_random_tickets_are_the_default_control_and_can_be_turned_off() -> None:
    assert {cell.curve.source for cell in plan_of(sweep_document()).cells} == {
        DENSE,
        "imp",
        "random",
    }
    assert {cell.curve.source for cell in plan_of(sweep_document(controls=[])).cells} == {
        DENSE,
        "imp",
    }


def test_every_control_has_the_sparsities_of_imp() -> None:
    plan = plan_of(sweep_document(controls=CONTROLS))
    by_source: dict[str, dict[int, float]] = {}
    for cell in plan.cells:
        if cell.ticket:
            spec = plan.trials[cell.ticket].spec
            assert isinstance(spec, PruneSpec)
            assert spec.sparsity == cell.sparsity
            by_source.setdefault(cell.curve.source, {})[cell.level] = cell.sparsity
    assert set(by_source) == set(CONTROLS)
    assert all(levels == by_source["imp"] for levels in by_source.values())


def test_repeats_can_train_the_tickets_of_one_seed() -> None:
    plan = plan_of(sweep_document(seed=[0, 1, 2], tickets_from_seed=0, controls=[]))
    tickets = {cell.level: set[str]() for cell in plan.cells if cell.ticket}
    for cell in plan.cells:
        if cell.ticket:
            tickets[cell.level].add(cell.ticket)
    assert all(len(keys) == 1 for keys in tickets.values())
    assert sum(1 for _ in plan.training_runs()) == 3 * 5


def test_extending_a_sweep_keeps_every_key() -> None:
    short = plan_of(sweep_document(schedule={"rate": 0.2, "levels": 2}))
    longer = plan_of(sweep_document(seed=[0, 1], rewind=[0, 5]))
    assert short.trials.keys() <= longer.trials.keys()


def test_committed_trials_are_not_run_and_a_late_rewind_point_is_a_replay() -> None:
    plan = plan_of(sweep_document(controls=[]))
    committed = {t.key: Record(key=t.key, kind=t.kind, spec={}) for t in plan}
    longer = plan_of(
        sweep_document(controls=[], rewind=[0, 5], schedule={"rate": 0.2, "levels": 1})
    )
    counts = count_plan(longer, committed, POOLS)
    assert counts.committed_trials == 3
    assert (counts.new_runs, counts.replays) == (1, 1)


def test_without_chains_the_critical_path_is_one_run() -> None:
    assert critical_path(plan_of(sweep_document(tickets=[], controls=["random"]))) == 1


def test_levels_can_differ_by_task_and_the_dense_score_can_be_left_out() -> None:
    content = sweep_document(
        task=["left", "right"], score_levels={"left": [1], "right": [2, 3]}, dense=False
    )
    content["tasks"] = {
        "left": {"task": "easy_vqa", "data": "/left"},
        "right": {"task": "easy_vqa", "data": "/right"},
    }
    scored = {(cell.curve.task, cell.level) for cell in plan_of(content).cells}
    assert scored == {("left", 1), ("right", 2), ("right", 3)}


@pytest.mark.parametrize(
    ("study", "limit"),
    [
        ({"rewind": 11}, 10),
        ({"rewind": 10, "rewind_schedule": "remaining"}, 9),
        ({"rewind": 15, "recipe": "long", "ticket_recipe": "short"}, 10),
    ],
)
def test_steps_and_levels_out_of_range_are_refused(study: dict[str, Any], limit: int) -> None:
    content = sweep_document(**study)
    content["recipes"]["long"] = content["recipes"]["short"] | {"steps": 20}
    with pytest.raises(ConfigError, match=rf"^studies\.main\..* use {limit} or less"):
        plan_of(content)


def test_tickets_can_come_from_chains_under_another_recipe() -> None:
    content = sweep_document(ticket_recipe="long", controls=[])
    content["recipes"]["long"] = {"steps": 20}
    plan = plan_of(content)
    steps = {
        trial.spec.recipe.steps: trial.spec.ticket
        for trial in plan
        if isinstance(trial.spec, TrainSpec)
    }
    assert set(steps) == {10, 20}
    prunes = [trial for trial in plan if isinstance(trial.spec, PruneSpec)]
    assert all(plan.trials[p.produced_by].spec.recipe.steps == 20 for p in prunes)  # type: ignore[union-attr]
    scored = [plan.trials[cell.trial].spec for cell in plan.cells]
    assert {spec.recipe.steps for spec in scored} == {10}  # type: ignore[union-attr]


def test_separate_rounds_share_no_runs_with_the_scores() -> None:
    """4 levels: the chain trains levels 0 to 3, and 0 to 4 are scored."""
    plan = plan_of(sweep_document(controls=[]) | {"rounds": "separate"})
    runs = [trial.spec for trial in plan.training_runs()]
    roles = [spec.role for spec in runs if isinstance(spec, TrainSpec)]
    assert (roles.count("round"), roles.count("evaluation")) == (4, 5)
    assert {plan.trials[cell.trial].spec.role for cell in plan.cells} == {"evaluation"}  # type: ignore[union-attr]


PRETRAINED: dict[str, Any] = {
    "models": {
        "mine": {
            "architecture": "uniter",
            "size": "tiny",
            "pretrained_by": {"task": "corpus", "recipe": "long", "seed": 5},
        },
        "bert": {
            "architecture": "uniter",
            "size": "tiny",
            "pretrained_by": {"task": "text"},
        },
    },
    "tasks": {
        "left": {"task": "easy_vqa", "data": "/left"},
        "corpus": {"task": "easy_vqa", "data": "/corpus"},
        "text": {"task": "easy_vqa", "data": "/text"},
    },
}


def test_theta_0_can_be_the_final_weights_of_a_run_of_the_sweep() -> None:
    content = sweep_document(model="mine", task="left", controls=["shuffle_within"]) | PRETRAINED
    content["recipes"]["long"] = {"steps": 20}
    plan = plan_of(content)
    (run,) = [t for t in plan.training_runs() if t.task == "corpus"]
    assert isinstance(run.spec, TrainSpec)
    assert (run.spec.seeds.data, run.spec.start.kind, run.spec.start.seed) == (5, "init", 5)
    (end,) = [t for t in plan if isinstance(t.spec, RewindSpec)]
    assert (end.spec, end.produced_by) == (RewindSpec(run=run.key, step=20), run.key)
    others = [t.spec for t in plan.training_runs() if t is not run]
    assert all(isinstance(s, TrainSpec) and s.start.trial == end.key for s in others)
    # The head of the pre-training task cannot be used on another task.
    assert {s.head for s in others} == {"redraw"}  # type: ignore[union-attr]


def test_a_ticket_can_be_applied_to_other_weights() -> None:
    content = sweep_document(model="mine", task="left", controls=["init:bert"]) | PRETRAINED
    content["recipes"]["long"] = {"steps": 20}
    plan = plan_of(content)
    same = {cell.level: cell for cell in plan.cells if cell.curve.source == "imp"}
    other = {cell.level: cell for cell in plan.cells if cell.curve.source == "init:bert"}
    assert {k: c.ticket for k, c in same.items()} == {k: c.ticket for k, c in other.items()}
    starts = {
        source: {plan.trials[cell.trial].spec.start.trial for cell in cells.values()}  # type: ignore[union-attr]
        for source, cells in (("same", same), ("other", other))
    }
    assert len(starts["same"]) == len(starts["other"]) == 1
    assert starts["same"] != starts["other"]


def test_the_most_expensive_run_starts_first() -> None:
    """An adversarial step takes 12 passes, a plain one 3."""
    content = sweep_document(
        task="easy_vqa", recipe=["short", "hard"], tickets=[], controls=["random"]
    )
    content["recipes"]["hard"] = {"steps": 10, "batch_size": 8, "adversary": "text"}
    item = Frontier(plan_of(content)).peek()
    assert item is not None
    plan = plan_of(content)
    dense = [cell.trial for cell in plan.cells if cell.curve.recipe == "hard" and not cell.level]
    weights = {key: work_of(plan.trials[key]) for key in dense}
    plain = next(c.trial for c in plan.cells if c.curve.recipe == "short" and not c.level)
    assert weights[dense[0]] == pytest.approx(4 * work_of(plan.trials[plain]))
    assert item.path_cost == pytest.approx(weights[dense[0]])
