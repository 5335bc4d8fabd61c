"""Whole small runs of the real model and task, a few steps each."""

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
    CUT,
    MODEL,
    MODES,
    RECIPE,
    TOTAL,
    Kept,
    bits,
    inputs,
    spec,
    ticket,
)
from trainables.errors import (
    CheckpointError,
    DataError,
    InvariantError,
    RecipeError,
    Stopped,
    TicketMismatch,
)
from trainables.run import Inputs, Outcome, cut, run
from trainables.spec import CutSpec, Recipe, Seeds, Start, TrainSpec
from trainables.training.checkpoint import decode, encode
from trainables.training.start import drawn_backbone


@pytest.fixture(scope="module")
def dense() -> TrainSpec:
    return spec()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_run_under_a_ticket_keeps_it_and_cuts_within_it(
    dense: TrainSpec, mode: dict[str, Any]
) -> None:
    worn, sink = ticket(0.7), Kept()
    child = replace(CUT, sparsity=0.8)
    masked = replace(dense, ticket="worn", recipe=replace(RECIPE, **mode))
    outcome = run(masked, inputs(ticket=worn), sink, cuts={"k": child}, rewinds={6})
    final, _ = decode(sink.rewinds[6])
    assert outcome.checks["pruned_nonzero"] == 0
    for name, kept in worn.items():
        assert not final[f"backbone.{name}"].numpy()[~kept].any()
        assert (sink.cuts["k"][name] <= kept).all()
    assert sum(int(kept.sum()) for kept in sink.cuts["k"].values()) == TOTAL - 81_920


def test_the_outcome_tells_what_happened(dense: TrainSpec) -> None:
    sink = Kept()
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


def test_a_long_history_is_thinned_but_keeps_every_evaluation(dense: TrainSpec) -> None:
    recipe = Recipe(steps=201, batch_size=1, lr=0.0, eval_every=67, eval_examples=1)
    history = run(replace(dense, recipe=recipe), inputs(), Kept()).history
    assert [point["step"] for point in history if "loss" in point] == [*range(2, 201, 2), 201]
    assert [point["step"] for point in history if "score" in point] == [67, 134, 201]


def test_warm_equals_cold(dense: TrainSpec) -> None:
    """Second in a process that has run others, and first in a fresh process."""
    masked, worn = replace(dense, ticket="worn"), ticket()
    first, second = Kept(), Kept()
    warm = run(masked, inputs(ticket=worn), first, cuts={"k": replace(CUT, sparsity=0.8)})
    run(replace(dense, recipe=replace(RECIPE, precision="bf16", zero=2)), inputs(), Kept())
    again = run(masked, inputs(ticket=worn), second, cuts={"k": replace(CUT, sparsity=0.8)})
    assert again == warm
    assert bits(second.cuts["k"]) == bits(first.cuts["k"])
    code = (
        "import sys\n"
        "from dataclasses import replace\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from tests.support.runs import CUT, Kept, bits, inputs, spec, ticket\n"
        "from trainables.run import run\n"
        "sink = Kept()\n"
        "cuts = {'k': replace(CUT, sparsity=0.8)}\n"
        "outcome = run(spec(ticket='worn'), inputs(ticket=ticket()), sink, cuts=cuts)\n"
        "print(outcome.checks['final_sha256'], bits(sink.cuts['k']))\n"
    )

    cold = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)],
        timeout=120,
        capture_output=True,
        text=True,
        check=True,
    )
    assert cold.stdout.split() == [warm.checks["final_sha256"], bits(first.cuts["k"])]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(dense: TrainSpec, mode: dict[str, Any]) -> None:
    masked = replace(dense, ticket="worn", recipe=replace(RECIPE, **mode))
    given = inputs(ticket=ticket())
    whole, killed, rest = Kept(says="save"), Kept(kill_at=3), Kept()
    expected = run(masked, given, whole, cuts={"k": replace(CUT, sparsity=0.8)}, rewinds={1, 5})
    with pytest.raises(KeyboardInterrupt):
        run(masked, given, killed, rewinds={1, 5})
    resumed = run(
        masked,
        replace(given, checkpoint=killed.checkpoints[-1]),
        rest,
        cuts={"k": replace(CUT, sparsity=0.8)},
        rewinds={1, 5},
    )
    assert resumed == expected
    assert bits(rest.cuts["k"]) == bits(whole.cuts["k"])
    assert killed.rewinds | rest.rewinds == whole.rewinds
    assert min(step for step, _ in rest.points) == 4
    assert resumed.costs["steps"] == 6


def test_checkpoints_are_written_when_the_sink_asks_and_never_at_the_end(dense: TrainSpec) -> None:
    silent, eager = Kept(), Kept(says="save")
    assert run(dense, inputs(), silent) == run(dense, inputs(), eager)
    assert silent.checkpoints == []
    assert len(eager.checkpoints) == RECIPE.steps - 1


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint(dense: TrainSpec) -> None:
    stopped = Kept(says="stop")
    with pytest.raises(Stopped):
        run(dense, inputs(), stopped)
    (checkpoint,) = stopped.checkpoints
    rest = Kept()
    assert run(dense, inputs(checkpoint=checkpoint), rest) == run(dense, inputs(), Kept())
    assert min(step for step, _ in rest.points) == 2


def test_a_checkpoint_past_a_rewind_point_that_is_wanted_now_is_not_used(dense: TrainSpec) -> None:
    killed, later = Kept(kill_at=3), Kept()
    with pytest.raises(KeyboardInterrupt):
        run(dense, inputs(), killed)
    whole = run(dense, inputs(checkpoint=killed.checkpoints[-1]), later, rewinds={2})
    assert list(later.rewinds) == [2]
    assert whole == run(dense, inputs(), Kept())


def test_a_long_evaluation_gives_signs_of_life(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Kept()
    monkeypatch.setattr("trainables.training.evaluate.SIGN_S", 0.0)
    run(dense, inputs(), sink)
    assert sink.lives


def test_a_checkpoint_of_another_run_is_refused(dense: TrainSpec) -> None:
    killed = Kept(kill_at=1)
    with pytest.raises(KeyboardInterrupt):
        run(dense, inputs(), killed)
    other = replace(dense, start=Start(seed=1))
    with pytest.raises(CheckpointError, match="other start weights"):
        run(other, inputs(checkpoint=killed.checkpoints[-1]), Kept())
    tensors, meta = decode(killed.checkpoints[-1])
    for changed in ({"progress": meta["progress"] | {"epochs": 1}}, {"rewinds": 3}):
        another = encode(tensors, meta | changed)
        with pytest.raises(CheckpointError, match="another version"):
            run(dense, inputs(checkpoint=another), Kept())
    with pytest.raises(CheckpointError, match="damaged"):
        run(dense, inputs(checkpoint=killed.checkpoints[-1][:999]), Kept())


def test_riders_and_evaluations_change_no_result(dense: TrainSpec) -> None:
    plain = run(dense, inputs(), Kept())
    sink, replay = Kept(), Kept()
    loaded = run(dense, inputs(), sink, cuts={"a": CUT, "b": CUT}, rewinds=[0, 3, 6])
    assert loaded == plain
    assert bits(sink.cuts["a"]) == bits(sink.cuts["b"])
    short = run(dense, inputs(), replay, cuts={"a": CUT}, rewinds=[3], until=3)
    assert replay.rewinds[3] == sink.rewinds[3]
    assert (short.scores, replay.cuts) == ({}, {})
    unwatched = replace(dense, recipe=replace(RECIPE, eval_every=0))
    assert run(unwatched, inputs(), Kept()).checks == plain.checks


def rewound(dense: TrainSpec, step: int) -> tuple[TrainSpec, Mapping[str, Tensor]]:
    sink = Kept()
    run(dense, inputs(), sink, rewinds=[step], until=step)
    return replace(dense, start=Start(kind="rewind", trial="r")), decode(sink.rewinds[step])[0]


def test_rewinding_to_step_zero_is_the_same_run(dense: TrainSpec) -> None:
    again, point = rewound(dense, 0)
    assert run(again, inputs(rewind=point), Kept()) == run(dense, inputs(), Kept())


def test_the_head_is_rewound_or_drawn_anew(dense: TrainSpec) -> None:
    again, point = rewound(dense, 3)
    starts = {}
    for head in ("rewind", "redraw"):
        sink = Kept()
        run(replace(again, head=head), inputs(rewind=point), sink, rewinds=[0], until=0)
        starts[head], _ = decode(sink.rewinds[0])
    fresh = Kept()
    run(dense, inputs(), fresh, rewinds=[0], until=0)
    first, _ = decode(fresh.rewinds[0])
    for name, value in point.items():
        assert torch.equal(starts["rewind"][name], value)
        drawn = first if name.startswith("head.") else point
        assert torch.equal(starts["redraw"][name], drawn[name])
    assert not torch.equal(point["head.0.weight"], first["head.0.weight"])


def test_a_run_can_take_up_the_schedule_where_its_start_was(dense: TrainSpec) -> None:
    again, point = rewound(dense, 4)
    whole, rest = run(dense, inputs(), Kept()), Kept()
    outcome = run(replace(again, first_step=4), inputs(rewind=point), rest)
    assert [point["lr"] for point in outcome.history] == [
        point["lr"] for point in whole.history[4:]
    ]
    # The same examples under the same weights: the first loss is the same one.
    assert outcome.history[0]["loss"] == whole.history[4]["loss"]
    assert outcome.costs["steps"] == 2


def test_seeds_are_separate(dense: TrainSpec) -> None:
    checks = {
        name: run(changed, inputs(), Kept()).checks
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


def test_a_round_sees_another_data_order_than_the_evaluation_of_its_level(
    dense: TrainSpec,
) -> None:
    evaluation, round_ = (
        run(replace(dense, role=role), inputs(), Kept()) for role in ("evaluation", "round")
    )
    assert round_.checks["theta_sha256"] == evaluation.checks["theta_sha256"]
    assert round_.history[0] != evaluation.history[0]
    assert run(replace(dense, role="round"), inputs(), Kept()) == round_


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_adversarial_training_under_a_ticket_resumes_bit_for_bit(
    dense: TrainSpec, mode: dict[str, Any]
) -> None:
    recipe = replace(RECIPE, adversary="both", adversary_steps=2, adversary_lr=0.1, **mode)
    masked = replace(dense, ticket="worn", recipe=recipe)
    given = inputs(ticket=ticket())
    killed = Kept(kill_at=3)
    whole = run(masked, given, Kept())
    with pytest.raises(KeyboardInterrupt):
        run(masked, given, killed)
    assert run(masked, replace(given, checkpoint=killed.checkpoints[-1]), Kept()) == whole
    plain = run(replace(masked, recipe=replace(recipe, adversary="none")), given, Kept())
    assert plain.checks["start_sha256"] == whole.checks["start_sha256"]
    assert plain.checks["final_sha256"] != whole.checks["final_sha256"]


def test_batches_by_tokens_resume_bit_for_bit(dense: TrainSpec) -> None:
    uneven = replace(dense, recipe=replace(RECIPE, tokens=300, batch_size=1, accumulate=2))
    killed = Kept(kill_at=3)
    whole = run(uneven, inputs(), Kept())
    with pytest.raises(KeyboardInterrupt):
        run(uneven, inputs(), killed)
    assert run(uneven, inputs(checkpoint=killed.checkpoints[-1]), Kept()) == whole


def test_wrong_inputs_cost_one_clear_line(dense: TrainSpec, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"other weights")
    published = Start(kind="pretrained", weights="0" * 64)
    wide = {name: np.ones((2, 2), bool) for name in ticket()}
    point = {"backbone.nothing": torch.zeros(1)}
    cases: list[tuple[type[Exception], TrainSpec, Inputs, dict[str, Any]]] = [
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
        (RecipeError, replace(dense, recipe=replace(RECIPE, precision="bf16")), inputs(), {}),
        (RecipeError, dense, inputs(), {"rewinds": [7]}),
        (RecipeError, dense, inputs(), {"until": 7}),
    ]
    for error, asked, given, more in cases:
        with pytest.raises(error) as caught:
            run(asked, given, Kept(), **more)
        assert "\n" not in str(caught.value)


def test_a_run_that_diverges_fails_and_cuts_nothing(dense: TrainSpec) -> None:
    sink = Kept()
    wild = replace(RECIPE, lr=1e30, warmup=0.0)
    with pytest.raises(InvariantError, match="finite"):
        run(replace(dense, recipe=wild), inputs(), sink, cuts={"k": CUT})
    assert sink.cuts == {}


def test_one_shot_magnitude_cuts_the_untrained_start() -> None:
    start = Start(seed=5)
    masks = cut(CutSpec(model=MODEL, sparsity=0.9, start=start), inputs())
    state = drawn_backbone(MODEL, 5, 0.0).state_dict()
    sizes = torch.cat([state[name].abs().flatten() for name in masks])
    kept = torch.cat([torch.from_numpy(mask).flatten() for mask in masks.values()])
    assert int(kept.sum()) == TOTAL // 10
    assert sizes[kept].min() > sizes[~kept].max()
    assert {name.split(".")[0] for name in masks} == {"encoder", "pooler"}


def test_one_shot_magnitude_cuts_a_rewind_point(dense: TrainSpec) -> None:
    again, point = rewound(dense, 3)
    masks = cut(CutSpec(model=MODEL, sparsity=0.9, start=again.start), inputs(rewind=point))
    ranked = {name: point[f"backbone.{name}"].abs() for name in masks}
    kept = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    assert sum(int(mask.sum()) for mask in kept.values()) == TOTAL // 10
    least = min(float(ranked[name][kept[name]].min()) for name in kept)
    assert all(ranked[name][~kept[name]].max() <= least for name in kept)
    other = {"backbone.nothing": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="start weights have no"):
        cut(CutSpec(model=MODEL, sparsity=0.9, start=again.start), inputs(rewind=other))


def test_random_cuts_stand_alone_or_copy_layer_counts() -> None:
    like = cut(CutSpec(model=MODEL, sparsity=0.9, start=Start()), inputs())
    matched = cut(
        CutSpec(model=MODEL, method="random", sparsity=0.9, like="t", seed=1), inputs(like=like)
    )
    assert {n: m.sum() for n, m in matched.items()} == {n: m.sum() for n, m in like.items()}
    assert bits(matched) != bits(like)
    assert sum(int(mask.sum()) for mask in ticket(0.9).values()) == TOTAL // 10


def test_a_cut_that_rides_a_run_is_not_made_alone() -> None:
    with pytest.raises(ValueError, match="rides"):
        cut(CUT, inputs())


def test_outcomes_compare_by_result_not_by_cost(dense: TrainSpec) -> None:
    a = Outcome(scores={"score": 1.0}, history=(), checks={}, costs={"seconds": 1.0})
    assert a == replace(a, costs={"seconds": 2.0})
    assert a != replace(a, scores={"score": 2.0})
