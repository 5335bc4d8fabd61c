"""Defects of published lottery-ticket code: each is provoked, and the run must detect it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.runs import MODES, PRUNE, RECIPE, TOTAL, RecordingSink, inputs, spec, ticket
from trainables import run as run_module
from trainables.distributed.collectives import Shard
from trainables.errors import InvariantError, TicketMismatch
from trainables.models import MODELS
from trainables.optim import schedules
from trainables.run import RunInputs, RunOutcome, prune, run
from trainables.spec import ModelSpec, PruneSpec, Recipe, Start, TrainSpec
from trainables.tickets import weights as weights_module
from trainables.tickets.base import Ticket
from trainables.training import engine as engine_module
from trainables.training import loop
from trainables.training.checkpoint import decode_checkpoint
from trainables.training.engine import Engine


@pytest.fixture(scope="module")
def dense() -> TrainSpec:
    return spec()


@pytest.fixture(scope="module")
def first(dense: TrainSpec) -> tuple[RunOutcome, RecordingSink]:
    """Level 0, with what the next level needs."""
    sink = RecordingSink()
    return run(dense, inputs(), sink, prunes={"k": PRUNE}, rewinds=[0]), sink


def next_level(
    dense: TrainSpec, first: tuple[RunOutcome, RecordingSink]
) -> tuple[TrainSpec, RunInputs]:
    outcome, sink = first
    theta_sha256 = str(outcome.checks["theta_sha256"])
    point, _ = decode_checkpoint(sink.rewinds[0])
    given = inputs(ticket=sink.tickets["k"], theta_sha256=theta_sha256, rewind=point)
    start = Start(kind="rewind", trial="r")
    return replace(dense, ticket="k", start=start), given


def load_as_aliases(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    net.load_state_dict(dict(weights), assign=True)


def test_a_correct_level_starts_from_the_weights_of_the_run_that_produced_its_ticket(
    dense: TrainSpec, first: tuple[RunOutcome, RecordingSink]
) -> None:
    again, given = next_level(dense, first)
    rewound = run(again, given, RecordingSink())
    drawn = run(replace(again, start=dense.start), replace(given, rewind=None), RecordingSink())
    assert rewound.checks == drawn.checks
    assert rewound.checks["theta_sha256"] == first[0].checks["theta_sha256"]
    assert rewound.checks["start_sha256"] != first[0].checks["start_sha256"]


def test_training_that_writes_to_its_start_weights_is_caught(
    dense: TrainSpec, first: tuple[RunOutcome, RecordingSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In BERT-Tickets' LT_pretrain.py the "rewound" weights are aliases of the network's."""
    again, given = next_level(dense, first)
    monkeypatch.setattr(run_module, "load_weights", load_as_aliases)
    with pytest.raises(InvariantError, match="training changed them"):
        run(replace(again, ticket=""), replace(given, ticket=None), RecordingSink())


def test_a_rewind_point_that_training_has_changed_is_caught(
    dense: TrainSpec, first: tuple[RunOutcome, RecordingSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same defect, one level later, if the previous level had not checked its weights."""
    again, given = next_level(dense, first)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_weights", load_as_aliases)
        patch.setattr(run_module.checks, "check_end", lambda *arguments: 0)
        run(replace(again, ticket=""), replace(given, ticket=None), RecordingSink())
    with pytest.raises(InvariantError, match="every level must start from the same"):
        run(again, given, RecordingSink())


def test_start_weights_that_are_not_loaded_are_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_weights", lambda net, weights: None)
    with pytest.raises(InvariantError, match="the engine does not hold them"):
        run(replace(dense, start=Start(seed=1)), inputs(), RecordingSink())


def test_a_head_carried_over_from_the_level_before_is_caught(
    dense: TrainSpec, first: tuple[RunOutcome, RecordingSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """BERT-Tickets' code rewinds only weights whose names contain "bert"."""
    again, given = next_level(dense, first)
    trained = RecordingSink()
    run(dense, inputs(), trained, rewinds=[RECIPE.steps])
    final, _ = decode_checkpoint(trained.rewinds[RECIPE.steps])
    correct = run_module._initial_weights

    def with_old_head(*arguments: Any) -> dict[str, Tensor]:
        heads = {name: value for name, value in final.items() if name.startswith("head.")}
        return correct(*arguments) | heads

    monkeypatch.setattr(run_module, "_initial_weights", with_old_head)
    with pytest.raises(InvariantError, match="every level must start from the same"):
        run(again, given, RecordingSink())


@pytest.mark.parametrize("changes", [{}, {"bias_correction": False}, {"optimizer": "sgd"}])
def test_a_schedule_that_spans_levels_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """In BERT-Tickets' code the learning rate decays over all ten rounds: only by a tenth in
    each."""
    plain = replace(dense, recipe=replace(RECIPE, **changes))
    correct = schedules.lr_at

    def spanning_levels(recipe: Recipe, step: int) -> float:
        return correct(replace(recipe, steps=10 * recipe.steps), step)

    monkeypatch.setattr(loop.schedules, "lr_at", spanning_levels)
    with pytest.raises(InvariantError, match="must not span levels"):
        run(plain, inputs(), RecordingSink())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_optimizer_carried_over_from_the_level_before_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    correct = engine_module.init_state

    def carried_over(optimizer: torch.optim.Optimizer, recipe: Recipe, zero: Any) -> None:
        correct(optimizer, recipe, zero)
        for state in optimizer.state.values():
            state["step"] += 6

    monkeypatch.setattr(engine_module, "init_state", carried_over)
    with pytest.raises(InvariantError, match="not zero before the first update"):
        run(replace(dense, recipe=replace(RECIPE, **mode)), inputs(), RecordingSink())


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_mask_that_is_not_applied_once_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]
) -> None:
    """One tensor's hook does not run once; the others do."""
    calls = 0

    def skipping_once(mask: Tensor, weight: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls != 40:  # of 13 per micro-batch
            correct(mask, weight)

    correct = weights_module._mask_gradient
    monkeypatch.setattr(weights_module, "_mask_gradient", skipping_once)
    masked = replace(dense, ticket="t", recipe=replace(RECIPE, **mode))
    sink = RecordingSink()
    with pytest.raises(InvariantError, match="pruned weights are not zero"):
        run(masked, inputs(ticket=ticket()), sink, prunes={"k": PRUNE})
    assert sink.tickets == {}


@pytest.mark.parametrize("found_at_once", [True, False])
def test_an_optimizer_that_revives_pruned_weights_is_caught(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, found_at_once: bool
) -> None:
    """Momentum from before the pruning moves a weight whose gradient is masked."""
    correct = engine_module.init_state

    def with_momentum(optimizer: torch.optim.Optimizer, recipe: Recipe, zero: Any) -> None:
        correct(optimizer, recipe, zero)
        for state in optimizer.state.values():
            state["momentum_buffer"].fill_(1e-3)

    monkeypatch.setattr(engine_module, "init_state", with_momentum)
    error = "not zero before the first update"
    if not found_at_once:
        monkeypatch.setattr(run_module.checks, "check_fresh_optimizer", lambda *arguments: None)
        error = "pruned weights are not zero"
    masked = replace(dense, ticket="t", recipe=replace(RECIPE, optimizer="sgd"))
    with pytest.raises(InvariantError, match=error):
        run(masked, inputs(ticket=ticket()), RecordingSink())


def test_a_ticket_of_another_model_or_naming_scheme_is_refused(dense: TrainSpec) -> None:
    masked = replace(dense, ticket="t")
    masks = ticket().arrays
    prefixed = Ticket({f"uniter.{name}": mask for name, mask in masks.items()})
    name = "encoder.layer.0.intermediate.dense.weight"
    transposed = Ticket({**masks, name: np.ascontiguousarray(masks[name].T)})
    vilt = ModelSpec(architecture="vilt", size="tiny", semantics=MODELS["vilt"].semantics)
    other = PruneSpec(model=vilt, method="random", sparsity=0.5)
    wide = ModelSpec(architecture="uniter", size="tiny", overrides=(("intermediate_size", 128),))
    for wrong in (
        prefixed,
        transposed,
        prune(other, inputs()),
        prune(replace(other, model=wide), inputs()),
    ):
        with pytest.raises(TicketMismatch) as caught:
            run(masked, inputs(ticket=wrong), RecordingSink())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("masked", [False, True])
def test_ranking_weights_rounded_to_bf16_is_refused(
    dense: TrainSpec, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    """The module's own weights instead of the float32 masters."""
    bf16 = replace(dense, recipe=replace(RECIPE, precision="bf16", zero=1))
    train_spec = replace(bf16, ticket="t") if masked else bf16
    given = inputs(ticket=ticket()) if masked else inputs()
    sink = RecordingSink()
    run(train_spec, given, sink, prunes={"k": replace(PRUNE, sparsity=0.8)})
    assert sink.tickets["k"].kept == TOTAL // 5

    def rounded_shards(self: Engine) -> dict[str, Shard]:
        return {
            name: Shard(each.start, each.values.bfloat16().float())
            for name, each in correct(self).items()
        }

    correct = Engine.owned_shards
    monkeypatch.setattr(run_module.checks, "check_engine_start", lambda *arguments: None)
    monkeypatch.setattr(Engine, "owned_shards", rounded_shards)
    with pytest.raises(InvariantError, match="bfloat16 values only"):
        run(train_spec, given, RecordingSink(), prunes={"k": replace(PRUNE, sparsity=0.8)})


def test_one_shot_pruning_may_rank_a_checkpoint_that_was_published_in_bf16() -> None:
    start = Start(kind="rewind", trial="r")
    backbone = run_module.init_backbone(PRUNE.model, 0, 0.0).state_dict()
    point = {f"backbone.{name}": value.bfloat16().float() for name, value in backbone.items()}
    omp = prune(PruneSpec(model=PRUNE.model, sparsity=0.5, start=start), inputs(rewind=point))
    assert omp.kept == TOTAL // 2
