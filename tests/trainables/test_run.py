"""Small runs of the real model and task, a few steps each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.paths import ROOT
from tests.support.runs import (
    MODEL,
    MODES,
    PRUNE,
    RECIPE,
    TOTAL,
    RecordingSink,
    inputs,
    masks_sha256,
    spec,
    ticket,
)
from trainables.errors import (
    CheckpointError,
    DataError,
    InvariantError,
    PluginError,
    RecipeError,
    Stopped,
    TicketMismatch,
)
from trainables.run import RunInputs, RunOutcome, prune, run
from trainables.spec import PruneSpec, Recipe, Seeds, Start, TrainSpec
from trainables.tickets.base import Ticket
from trainables.training.checkpoint import decode_checkpoint, encode_checkpoint
from trainables.training.start import init_backbone


@pytest.fixture(scope="module")
def dense() -> TrainSpec:
    return spec()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_run_keeps_its_ticket_and_prunes_within_it(
    dense: TrainSpec, mode: dict[str, Any]
) -> None:
    parent, sink = ticket(0.7), RecordingSink()
    child = replace(PRUNE, sparsity=0.8)
    masked = replace(dense, ticket="t", recipe=replace(RECIPE, **mode))
    outcome = run(masked, inputs(ticket=parent), sink, prunes={"k": child}, rewinds={6})
    final, _ = decode_checkpoint(sink.rewinds[6])
    assert outcome.checks["pruned_nonzero"] == 0
    for name, mask in parent.arrays.items():
        assert not final[f"backbone.{name}"].numpy()[~mask].any()
        assert (sink.tickets["k"].arrays[name] <= mask).all()
    assert sink.tickets["k"].kept == TOTAL - 81_920


def test_the_outcome_has_scores_history_and_costs(dense: TrainSpec) -> None:
    sink = RecordingSink()
    outcome = run(replace(dense, recipe=replace(RECIPE, score="best")), inputs(), sink)
    scored = {point["step"]: point["score"] for point in outcome.history if "score" in point}
    assert list(scored) == [2, 4, 6]
    assert outcome.scores["last"] == scored[6]
    assert outcome.scores["best"] == outcome.scores["score"] == max(scored.values())
    assert scored[int(outcome.scores["best_step"])] == outcome.scores["best"]
    assert outcome.scores["prior"] == pytest.approx(67.0, abs=0.1)
    assert [point["step"] for point in outcome.history if "loss" in point] == [1, 2, 3, 4, 5, 6]
    assert [{"step": step, **values} for step, values in sink.points] == list(outcome.history)
    assert outcome.costs["steps"] == 6
    assert 0 < outcome.costs["evaluation_seconds"] < outcome.costs["seconds"]


def test_a_long_history_is_thinned_but_has_every_evaluation(dense: TrainSpec) -> None:
    recipe = Recipe(steps=201, batch_size=1, lr=0.0, eval_every=67, eval_examples=1)
    history = run(replace(dense, recipe=recipe), inputs(), RecordingSink()).history
    assert [point["step"] for point in history if "loss" in point] == [*range(2, 201, 2), 201]
    assert [point["step"] for point in history if "score" in point] == [67, 134, 201]


def test_a_run_gives_the_same_bits_in_a_warm_and_in_a_fresh_process(dense: TrainSpec) -> None:
    """The warm process has already run other trials."""
    masked, masks = replace(dense, ticket="t"), ticket()
    first, second = RecordingSink(), RecordingSink()
    warm = run(masked, inputs(ticket=masks), first, prunes={"k": replace(PRUNE, sparsity=0.8)})
    run(replace(dense, recipe=replace(RECIPE, precision="bf16", zero=2)), inputs(), RecordingSink())
    again = run(masked, inputs(ticket=masks), second, prunes={"k": replace(PRUNE, sparsity=0.8)})
    assert again == warm
    assert masks_sha256(second.tickets["k"]) == masks_sha256(first.tickets["k"])
    code = (
        "import sys\n"
        "from dataclasses import replace\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from tests.support.runs import PRUNE, RecordingSink, inputs, masks_sha256, spec, ticket\n"
        "from trainables.run import run\n"
        "sink = RecordingSink()\n"
        "prunes = {'k': replace(PRUNE, sparsity=0.8)}\n"
        "outcome = run(spec(ticket='t'), inputs(ticket=ticket()), sink, prunes=prunes)\n"
        "print(outcome.checks['final_sha256'], masks_sha256(sink.tickets['k']))\n"
    )

    cold = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert cold.stdout.split() == [warm.checks["final_sha256"], masks_sha256(first.tickets["k"])]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(dense: TrainSpec, mode: dict[str, Any]) -> None:
    masked = replace(dense, ticket="t", recipe=replace(RECIPE, **mode))
    run_inputs = inputs(ticket=ticket())
    complete, interrupted, resumed_sink = (
        RecordingSink(action="save"),
        RecordingSink(interrupt_at=3),
        RecordingSink(),
    )
    expected = run(
        masked, run_inputs, complete, prunes={"k": replace(PRUNE, sparsity=0.8)}, rewinds={1, 5}
    )
    with pytest.raises(KeyboardInterrupt):
        run(masked, run_inputs, interrupted, rewinds={1, 5})
    resumed = run(
        masked,
        replace(run_inputs, checkpoint=interrupted.checkpoints[-1]),
        resumed_sink,
        prunes={"k": replace(PRUNE, sparsity=0.8)},
        rewinds={1, 5},
    )
    assert resumed == expected
    assert masks_sha256(resumed_sink.tickets["k"]) == masks_sha256(complete.tickets["k"])
    assert interrupted.rewinds | resumed_sink.rewinds == complete.rewinds
    assert min(step for step, _ in resumed_sink.points) == 4
    assert resumed.costs["steps"] == 6


def test_checkpoints_are_saved_when_the_sink_asks_but_not_at_the_end(dense: TrainSpec) -> None:
    silent, eager = RecordingSink(), RecordingSink(action="save")
    assert run(dense, inputs(), silent) == run(dense, inputs(), eager)
    assert silent.checkpoints == []
    assert len(eager.checkpoints) == RECIPE.steps - 1


def test_a_stopped_run_saves_a_checkpoint(dense: TrainSpec) -> None:
    stopped = RecordingSink(action="stop")
    with pytest.raises(Stopped):
        run(dense, inputs(), stopped)
    (checkpoint,) = stopped.checkpoints
    resumed_sink = RecordingSink()
    assert run(dense, inputs(checkpoint=checkpoint), resumed_sink) == run(
        dense, inputs(), RecordingSink()
    )
    assert min(step for step, _ in resumed_sink.points) == 2


def test_a_checkpoint_past_a_newly_requested_rewind_point_is_not_used(dense: TrainSpec) -> None:
    interrupted, later = RecordingSink(interrupt_at=3), RecordingSink()
    with pytest.raises(KeyboardInterrupt):
        run(dense, inputs(), interrupted)
    complete = run(dense, inputs(checkpoint=interrupted.checkpoints[-1]), later, rewinds={2})
    assert list(later.rewinds) == [2]
    assert complete == run(dense, inputs(), RecordingSink())


def test_a_long_evaluation_sends_heartbeats(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = RecordingSink()
    monkeypatch.setattr("trainables.training.evaluate.HEARTBEAT_S", 0.0)
    run(dense, inputs(), sink)
    assert sink.got_heartbeat


def test_a_checkpoint_of_another_run_is_refused(dense: TrainSpec) -> None:
    interrupted = RecordingSink(interrupt_at=1)
    with pytest.raises(KeyboardInterrupt):
        run(dense, inputs(), interrupted)
    other = replace(dense, start=Start(seed=1))
    with pytest.raises(CheckpointError, match="other start weights"):
        run(other, inputs(checkpoint=interrupted.checkpoints[-1]), RecordingSink())
    tensors, meta = decode_checkpoint(interrupted.checkpoints[-1])
    for changed in ({"progress": meta["progress"] | {"epochs": 1}}, {"rewinds": 3}):
        another = encode_checkpoint(tensors, meta | changed)
        with pytest.raises(CheckpointError, match="another version"):
            run(dense, inputs(checkpoint=another), RecordingSink())
    with pytest.raises(CheckpointError, match="damaged"):
        run(dense, inputs(checkpoint=interrupted.checkpoints[-1][:999]), RecordingSink())


def test_a_checkpoint_of_another_layout_is_refused_by_the_name_of_a_tensor(
    dense: TrainSpec,
) -> None:
    interrupted = RecordingSink(interrupt_at=1)
    with pytest.raises(KeyboardInterrupt):
        run(dense, inputs(), interrupted)
    tensors, meta = decode_checkpoint(interrupted.checkpoints[-1])
    weight = "backbone.pooler.dense.weight"
    for key in ("weights", "exp_avg_sq"):
        name = f"{key}/{weight}"
        flat = tensors | {name: tensors[name].flatten()}
        renamed = {f"{key}/other" if n == name else n: value for n, value in tensors.items()}
        for changed in (flat, {n: value for n, value in tensors.items() if n != name}, renamed):
            with pytest.raises(CheckpointError, match=rf"checkpoint: {key}/.* delete it"):
                run(dense, inputs(checkpoint=encode_checkpoint(changed, meta)), RecordingSink())
    for counts in ({"step/other": torch.tensor(1)}, {f"step/{weight}": torch.tensor([1, 1])}):
        changed = tensors | counts
        with pytest.raises(CheckpointError, match="checkpoint: step/"):
            run(dense, inputs(checkpoint=encode_checkpoint(changed, meta)), RecordingSink())


def test_requested_tickets_rewind_points_and_evaluations_change_no_result(dense: TrainSpec) -> None:
    plain = run(dense, inputs(), RecordingSink())
    sink, replay = RecordingSink(), RecordingSink()
    loaded = run(dense, inputs(), sink, prunes={"a": PRUNE, "b": PRUNE}, rewinds=[0, 3, 6])
    assert loaded == plain
    assert masks_sha256(sink.tickets["a"]) == masks_sha256(sink.tickets["b"])
    short = run(dense, inputs(), replay, prunes={"a": PRUNE}, rewinds=[3], until=3)
    assert replay.rewinds[3] == sink.rewinds[3]
    assert (short.scores, replay.tickets) == ({}, {})
    unevaluated = replace(dense, recipe=replace(RECIPE, eval_every=0))
    assert run(unevaluated, inputs(), RecordingSink()).checks == plain.checks


def rewound(dense: TrainSpec, step: int) -> tuple[TrainSpec, Mapping[str, Tensor]]:
    sink = RecordingSink()
    run(dense, inputs(), sink, rewinds=[step], until=step)
    return replace(dense, start=Start(kind="rewind", trial="r")), decode_checkpoint(
        sink.rewinds[step]
    )[0]


def test_rewinding_to_step_zero_is_the_same_run(dense: TrainSpec) -> None:
    again, point = rewound(dense, 0)
    assert run(again, inputs(rewind=point), RecordingSink()) == run(
        dense, inputs(), RecordingSink()
    )


def test_the_head_is_rewound_or_redrawn(dense: TrainSpec) -> None:
    again, point = rewound(dense, 3)
    starts = {}
    for head in ("rewind", "redraw"):
        sink = RecordingSink()
        run(replace(again, head=head), inputs(rewind=point), sink, rewinds=[0], until=0)
        starts[head], _ = decode_checkpoint(sink.rewinds[0])
    fresh = RecordingSink()
    run(dense, inputs(), fresh, rewinds=[0], until=0)
    first, _ = decode_checkpoint(fresh.rewinds[0])
    for name, value in point.items():
        assert torch.equal(starts["rewind"][name], value)
        drawn = first if name.startswith("head.") else point
        assert torch.equal(starts["redraw"][name], drawn[name])
    assert not torch.equal(point["head.0.weight"], first["head.0.weight"])


def test_a_run_can_continue_the_schedule_of_its_rewind_point(dense: TrainSpec) -> None:
    again, point = rewound(dense, 4)
    complete, resumed_sink = run(dense, inputs(), RecordingSink()), RecordingSink()
    outcome = run(replace(again, first_step=4), inputs(rewind=point), resumed_sink)
    assert [point["lr"] for point in outcome.history] == [
        point["lr"] for point in complete.history[4:]
    ]
    # The same examples under the same weights: the first loss is the same one.
    assert outcome.history[0]["loss"] == complete.history[4]["loss"]
    assert outcome.costs["steps"] == 2


def test_seeds_are_separate(dense: TrainSpec) -> None:
    checks = {
        name: run(changed, inputs(), RecordingSink()).checks
        for name, changed in {
            "base": dense,
            "head": replace(dense, seeds=Seeds(head=1)),
            "data": replace(dense, seeds=Seeds(data=1)),
            "init": replace(dense, start=Start(seed=1)),
        }.items()
    }
    assert checks["data"]["start_sha256"] == checks["base"]["start_sha256"]
    assert len({check["start_sha256"] for check in checks.values()}) == 3
    assert len({check["final_sha256"] for check in checks.values()}) == 4


def test_a_round_has_another_data_order_than_the_evaluation_of_its_level(
    dense: TrainSpec,
) -> None:
    evaluation, round_ = (
        run(replace(dense, role=role), inputs(), RecordingSink())
        for role in ("evaluation", "round")
    )
    assert round_.checks["theta_sha256"] == evaluation.checks["theta_sha256"]
    assert round_.history[0] != evaluation.history[0]
    assert run(replace(dense, role="round"), inputs(), RecordingSink()) == round_


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_adversarial_training_under_a_ticket_resumes_bit_for_bit(
    dense: TrainSpec, mode: dict[str, Any]
) -> None:
    recipe = replace(RECIPE, adversary="both", adversary_steps=2, adversary_lr=0.1, **mode)
    masked = replace(dense, ticket="t", recipe=recipe)
    run_inputs = inputs(ticket=ticket())
    interrupted = RecordingSink(interrupt_at=3)
    complete = run(masked, run_inputs, RecordingSink())
    with pytest.raises(KeyboardInterrupt):
        run(masked, run_inputs, interrupted)
    assert (
        run(masked, replace(run_inputs, checkpoint=interrupted.checkpoints[-1]), RecordingSink())
        == complete
    )
    plain = run(
        replace(masked, recipe=replace(recipe, adversary="none")), run_inputs, RecordingSink()
    )
    assert plain.checks["start_sha256"] == complete.checks["start_sha256"]
    assert plain.checks["final_sha256"] != complete.checks["final_sha256"]


def test_a_run_with_a_token_limit_resumes_bit_for_bit(dense: TrainSpec) -> None:
    uneven = replace(dense, recipe=replace(RECIPE, tokens=300, batch_size=1, accumulate=2))
    interrupted = RecordingSink(interrupt_at=3)
    complete = run(uneven, inputs(), RecordingSink())
    with pytest.raises(KeyboardInterrupt):
        run(uneven, inputs(), interrupted)
    assert run(uneven, inputs(checkpoint=interrupted.checkpoints[-1]), RecordingSink()) == complete


def test_wrong_inputs_raise_one_clear_line(dense: TrainSpec, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"other weights")
    published = Start(kind="pretrained", weights="0" * 64)
    wide = Ticket({name: np.ones((2, 2), bool) for name in ticket().arrays})
    unknown = Ticket(ticket().arrays, "feathers")
    point = {"backbone.nothing": torch.zeros(1)}
    cases: list[tuple[type[Exception], TrainSpec, RunInputs, dict[str, Any]]] = [
        (DataError, replace(dense, task=replace(dense.task, data="1" * 64)), inputs(), {}),
        (DataError, dense, inputs(data=tmp_path / "none"), {}),
        (DataError, replace(dense, start=published), inputs(weights=tmp_path / "w.pt"), {}),
        (DataError, replace(dense, start=published), inputs(), {}),
        (CheckpointError, replace(dense, start=Start(kind="rewind")), inputs(), {}),
        (CheckpointError, replace(dense, start=Start(kind="rewind")), inputs(rewind=point), {}),
        (InvariantError, dense, inputs(theta_sha256="0" * 64), {}),
        (RecipeError, replace(dense, recipe=replace(RECIPE, tokens=8)), inputs(), {}),
        (TicketMismatch, replace(dense, ticket="t"), inputs(), {}),
        (TicketMismatch, dense, inputs(ticket=ticket()), {}),
        (TicketMismatch, replace(dense, ticket="t"), inputs(ticket=wide), {}),
        (PluginError, replace(dense, ticket="t"), inputs(ticket=unknown), {}),
        (RecipeError, dense, inputs(), {"prunes": {"k": replace(PRUNE, method="none")}}),
        (
            RecipeError,
            replace(dense, recipe=replace(RECIPE, optimizer="lars", zero=1)),
            inputs(),
            {},
        ),
        (RecipeError, dense, inputs(), {"rewinds": [7]}),
        (RecipeError, dense, inputs(), {"until": 7}),
    ]
    for error, wrong_spec, wrong_inputs, arguments in cases:
        with pytest.raises(error) as caught:
            run(wrong_spec, wrong_inputs, RecordingSink(), **arguments)
        assert "\n" not in str(caught.value)


def test_a_trial_that_was_planned_with_other_code_is_refused(dense: TrainSpec) -> None:
    later_model = replace(MODEL, semantics=99)
    later_task = replace(dense.task, semantics=99)
    for refused, what in (
        (replace(dense, model=later_model), "model uniter"),
        (replace(dense, task=later_task), "task easy_vqa"),
    ):
        with pytest.raises(PluginError, match=f"^{what}: .* version 99 .* version 1;"):
            run(refused, inputs(), RecordingSink())
    with pytest.raises(PluginError, match=r"^pruning: .* version 99"):
        run(dense, inputs(), RecordingSink(), prunes={"k": replace(PRUNE, semantics=99)})
    random = PruneSpec(model=MODEL, method="random", sparsity=0.5)
    for ticket_spec in (replace(random, semantics=99), replace(random, model=later_model)):
        with pytest.raises(PluginError, match="version 99"):
            prune(ticket_spec, inputs())


def test_a_run_that_diverges_fails_without_a_ticket(dense: TrainSpec) -> None:
    sink = RecordingSink()
    diverging = replace(RECIPE, lr=1e30, warmup=0.0)
    with pytest.raises(InvariantError, match="finite"):
        run(replace(dense, recipe=diverging), inputs(), sink, prunes={"k": PRUNE})
    assert sink.tickets == {}


def test_one_shot_magnitude_pruning_ranks_the_untrained_start() -> None:
    start = Start(seed=5)
    masks = prune(PruneSpec(model=MODEL, sparsity=0.9, start=start), inputs()).arrays
    state = init_backbone(MODEL, 5, 0.0).state_dict()
    sizes = torch.cat([state[name].abs().flatten() for name in masks])
    mask = torch.cat([torch.from_numpy(each).flatten() for each in masks.values()])
    assert int(mask.sum()) == TOTAL // 10
    assert sizes[mask].min() > sizes[~mask].max()
    assert {name.split(".")[0] for name in masks} == {"encoder", "pooler"}


def test_one_shot_magnitude_pruning_ranks_a_rewind_point(dense: TrainSpec) -> None:
    again, point = rewound(dense, 3)
    omp = PruneSpec(model=MODEL, sparsity=0.9, start=again.start)
    masks = prune(omp, inputs(rewind=point)).arrays
    ranked = {name: point[f"backbone.{name}"].abs() for name in masks}
    kept = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    assert sum(int(mask.sum()) for mask in kept.values()) == TOTAL // 10
    smallest = min(float(ranked[name][kept[name]].min()) for name in kept)
    assert all(ranked[name][~kept[name]].max() <= smallest for name in kept)
    other = {"backbone.nothing": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="start weights have no"):
        prune(omp, inputs(rewind=other))


def test_random_tickets_are_independent_or_copy_layer_counts() -> None:
    reference = prune(PruneSpec(model=MODEL, sparsity=0.9, start=Start()), inputs())
    matched = prune(
        PruneSpec(model=MODEL, method="random", sparsity=0.9, like="t", seed=1),
        inputs(reference=reference),
    )
    counts = [{n: m.sum() for n, m in each.arrays.items()} for each in (matched, reference)]
    assert counts[0] == counts[1]
    assert masks_sha256(matched) != masks_sha256(reference)
    assert ticket(0.9).kept == TOTAL // 10


def test_a_ticket_of_a_training_run_cannot_be_produced_without_it() -> None:
    with pytest.raises(RecipeError, match="produces this ticket"):
        prune(PRUNE, inputs())


def test_outcomes_are_compared_without_costs(dense: TrainSpec) -> None:
    a = RunOutcome(scores={"score": 1.0}, history=(), checks={}, costs={"seconds": 1.0})
    assert a == replace(a, costs={"seconds": 2.0})
    assert a != replace(a, scores={"score": 2.0})
