"""Defects that published lottery-ticket code has had, each provoked, each caught while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.runs import CUT, MODES, RECIPE, TOTAL, Kept, inputs, spec, ticket
from trainables import run as module
from trainables.distributed.collectives import Stretch
from trainables.errors import InvariantError, TicketMismatch
from trainables.optim import schedules
from trainables.run import Inputs, Outcome, cut, run
from trainables.spec import CutSpec, ModelSpec, Recipe, Start, TrainSpec
from trainables.tickets import weights as weight_mask
from trainables.training import engine as engine_module
from trainables.training import loop
from trainables.training.checkpoint import decode
from trainables.training.engine import Engine


@pytest.fixture(scope="module")
def dense() -> TrainSpec:
    return spec()


@pytest.fixture(scope="module")
def first(dense: TrainSpec) -> tuple[Outcome, Kept]:
    """Level 0, and what the next level needs of it."""
    sink = Kept()
    return run(dense, inputs(), sink, cuts={"k": CUT}, rewinds=[0]), sink


def next_level(dense: TrainSpec, first: tuple[Outcome, Kept]) -> tuple[TrainSpec, Inputs]:
    outcome, sink = first
    theta = str(outcome.checks["theta_sha256"])
    point, _ = decode(sink.rewinds[0])
    given = inputs(ticket=sink.cuts["k"], theta_sha256=theta, rewind=point)
    start = Start(kind="rewind", trial="r")
    return replace(dense, ticket="k", start=start), given


def aliased(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    net.load_state_dict(dict(weights), assign=True)


def test_an_honest_level_starts_from_the_theta_of_the_one_that_cut_its_ticket(
    dense: TrainSpec, first: tuple[Outcome, Kept]
) -> None:
    again, given = next_level(dense, first)
    rewound = run(again, given, Kept())
    drawn = run(replace(again, start=dense.start), replace(given, rewind=None), Kept())
    assert rewound.checks == drawn.checks
    assert rewound.checks["theta_sha256"] == first[0].checks["theta_sha256"]
    assert rewound.checks["start_sha256"] != first[0].checks["start_sha256"]


def test_training_that_writes_to_its_start_weights_is_caught(
    dense: TrainSpec, first: tuple[Outcome, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BERT-Tickets' LT_pretrain.py: the "rewound" weights are aliases of the live ones."""
    again, given = next_level(dense, first)
    monkeypatch.setattr(module, "load_weights", aliased)
    with pytest.raises(InvariantError, match="wrote to its start weights"):
        run(replace(again, ticket=""), replace(given, ticket=None), Kept())


def test_a_rewind_point_that_moved_with_the_live_weights_is_caught(
    dense: TrainSpec, first: tuple[Outcome, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, one level later, had the level before not looked."""
    again, given = next_level(dense, first)
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_weights", aliased)
        patch.setattr(module.checks, "check_end", lambda *given: 0)
        run(replace(again, ticket=""), replace(given, ticket=None), Kept())
    with pytest.raises(InvariantError, match="every level must start alike"):
        run(again, given, Kept())


def test_a_reset_that_does_nothing_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_weights", lambda net, weights: None)
    with pytest.raises(InvariantError, match="other weights than the start weights"):
        run(replace(dense, start=Start(seed=1)), inputs(), Kept())


def test_a_head_carried_over_from_the_level_before_is_caught(
    dense: TrainSpec, first: tuple[Outcome, Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BERT-Tickets' rounds rewind only names that contain "bert"."""
    again, given = next_level(dense, first)
    trained = Kept()
    run(dense, inputs(), trained, rewinds=[RECIPE.steps])
    left, _ = decode(trained.rewinds[RECIPE.steps])
    honest = module._start

    def keeping_head(*asked: Any) -> dict[str, Tensor]:
        heads = {name: value for name, value in left.items() if name.startswith("head.")}
        return honest(*asked) | heads

    monkeypatch.setattr(module, "_start", keeping_head)
    with pytest.raises(InvariantError, match="every level must start alike"):
        run(again, given, Kept())


@pytest.mark.parametrize("bias_correction", [True, False])
def test_a_schedule_that_spans_levels_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, bias_correction: bool
) -> None:
    """BERT-Tickets' code lets the rate fall over all ten rounds, so within one by a tenth only."""
    plain = replace(dense, recipe=replace(RECIPE, bias_correction=bias_correction))
    honest = schedules.lr_at

    def spanning(plan: Recipe, step: int) -> float:
        return honest(replace(plan, steps=10 * plan.steps), step)

    monkeypatch.setattr(loop.schedules, "lr_at", spanning)
    with pytest.raises(InvariantError, match="must not span levels"):
        run(plain, inputs(), Kept())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_optimizer_carried_over_from_the_level_before_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    honest = engine_module.begin_moments

    def carried(optimizer: torch.optim.AdamW, zero: Any) -> None:
        honest(optimizer, zero)
        for state in optimizer.state.values():
            state["step"] += 6

    monkeypatch.setattr(engine_module, "begin_moments", carried)
    with pytest.raises(InvariantError, match="Adam has counted 12 updates"):
        run(replace(dense, recipe=replace(RECIPE, **mode)), inputs(), Kept())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_mask_lost_half_way_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    """One of the tensors' hooks goes; the others stay."""
    calls = 0

    def forgetful(mask: Tensor, weight: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls != 40:  # of 13 a micro-batch
            honest(mask, weight)

    honest = weight_mask._mask_gradient
    monkeypatch.setattr(weight_mask, "_mask_gradient", forgetful)
    masked = replace(dense, ticket="t", recipe=replace(RECIPE, **mode))
    sink = Kept()
    with pytest.raises(InvariantError, match="pruned weights are not zero"):
        run(masked, inputs(ticket=ticket()), sink, cuts={"k": CUT})
    assert sink.cuts == {}


def test_an_optimizer_that_revives_pruned_weights_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Momentum left from before the cut moves a weight whose gradient is masked."""
    honest = engine_module.begin_moments

    def with_momentum(optimizer: torch.optim.AdamW, zero: Any) -> None:
        honest(optimizer, zero)
        for state in optimizer.state.values():
            state["exp_avg"].fill_(1e-3)

    monkeypatch.setattr(engine_module, "begin_moments", with_momentum)
    with pytest.raises(InvariantError, match="pruned weights are not zero"):
        run(replace(dense, ticket="t"), inputs(ticket=ticket()), Kept())


def test_a_ticket_of_another_model_or_naming_scheme_is_refused(dense: TrainSpec) -> None:
    worn = replace(dense, ticket="t")
    own = ticket()
    prefixed = {f"uniter.{name}": kept for name, kept in own.items()}
    name = "encoder.layer.0.intermediate.dense.weight"
    turned = {**own, name: np.ascontiguousarray(own[name].T)}
    other = CutSpec(
        model=ModelSpec(architecture="vilt", size="tiny"), method="random", sparsity=0.5
    )
    wide = ModelSpec(architecture="uniter", size="tiny", overrides=(("intermediate_size", 128),))
    for wrong in (
        prefixed,
        turned,
        cut(other, inputs()),
        cut(replace(other, model=wide), inputs()),
    ):
        with pytest.raises(TicketMismatch) as caught:
            run(worn, inputs(ticket=wrong), Kept())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("worn", [False, True])
def test_ranking_weights_rounded_to_bf16_is_refused(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, worn: bool
) -> None:
    """The module's own weights instead of the float32 masters."""
    mode = replace(dense, recipe=replace(RECIPE, precision="bf16", zero=1))
    asked = replace(mode, ticket="t") if worn else mode
    given = inputs(ticket=ticket()) if worn else inputs()
    sink = Kept()
    run(asked, given, sink, cuts={"k": replace(CUT, sparsity=0.8)})
    assert sum(int(kept.sum()) for kept in sink.cuts["k"].values()) == TOTAL // 5

    def rounded(self: Engine) -> dict[str, Stretch]:
        return {
            name: Stretch(each.start, each.values.bfloat16().float())
            for name, each in honest(self).items()
        }

    honest = Engine.held
    monkeypatch.setattr(module.checks, "check_start", lambda *given: None)
    monkeypatch.setattr(Engine, "held", rounded)
    with pytest.raises(InvariantError, match="bfloat16 values only"):
        run(asked, given, Kept(), cuts={"k": replace(CUT, sparsity=0.8)})


def test_one_shot_cuts_may_rank_a_checkpoint_that_was_published_in_bf16() -> None:
    start = Start(kind="rewind", trial="r")
    backbone = module.drawn_backbone(CUT.model, 0, 0.0).state_dict()
    point = {f"backbone.{name}": value.bfloat16().float() for name, value in backbone.items()}
    masks = cut(CutSpec(model=CUT.model, sparsity=0.5, start=start), inputs(rewind=point))
    assert sum(int(kept.sum()) for kept in masks.values()) == TOTAL // 2
