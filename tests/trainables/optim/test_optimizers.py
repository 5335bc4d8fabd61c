"""Each optimizer in the engine: against plain torch, under a ticket, and resumed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.optimizers import (
    ADAMW,
    LARS,
    MASK,
    NESTEROV,
    RECIPE,
    SGD,
    STEPS,
    advance,
    batch_of,
    engine,
    in_torch,
    loss,
    masks,
    network,
    plain_batches,
)
from tests.support.plugins import registered
from trainables.distributed.process import prepare_process
from trainables.errors import InvariantError, RecipeError
from trainables.optim import OPTIMIZERS, OptimizerEntry
from trainables.optim.build import build_optimizer
from trainables.optim.schedules import lr_at
from trainables.spec import Recipe
from trainables.tickets.weights import kept_sha256, pruned_nonzero
from trainables.training.adversary import plain_objective
from trainables.training.engine import MicroBatch, start_engine

STAGES: list[dict[str, Any]] = [{"zero": 0}, {"zero": 1}, {"zero": 2}]
BF16: list[dict[str, Any]] = [
    {"zero": 0, "precision": "bf16"},
    {"zero": 1, "precision": "bf16"},
    {"zero": 2, "precision": "bf16"},
]
CASES = [
    *((recipe, mode) for recipe in (ADAMW, SGD) for mode in [*STAGES, *BF16]),
    (LARS, STAGES[0]),
    (LARS, BF16[0]),
]


def in_every_mode(argument: str) -> pytest.MarkDecorator:
    ids = [f"{recipe.optimizer}-{'-'.join(map(str, mode.values()))}" for recipe, mode in CASES]
    recipes = [replace(recipe, **mode) for recipe, mode in CASES]
    return pytest.mark.parametrize(argument, recipes, ids=ids)


def used(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the branch that no batch uses: it moves from stage 1 on."""
    return {name: value for name, value in tensors.items() if "right" not in name}


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize(
    "recipe", [SGD, NESTEROV, replace(SGD, momentum=0.0)], ids=["momentum", "nesterov", "plain"]
)
def test_sgd_equals_torch_bit_for_bit(recipe: Recipe, stage: dict[str, Any]) -> None:
    expected, momentum = in_torch(
        torch.optim.SGD,
        recipe,
        plain_batches(),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )
    with engine(replace(recipe, **stage)) as running:
        advance(running, plain_batches())
        weights, state = running.weights(), running.optimizer_state()
    assert kept_sha256(used(weights), {}) == kept_sha256(used(expected), {})
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in expected.items()
    }
    own = used(state["momentum_buffer"]) if recipe.momentum else {}
    assert kept_sha256(own, {}) == kept_sha256(used(momentum), {})


class LarsByHand(torch.optim.Optimizer):
    """You et al. 2017, Algorithm 1, with one parameter per group."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            (w,) = group["params"]
            if w.grad is None:
                continue
            decay, ratio = group["weight_decay"], 1.0
            norm, gradient_norm = float((w**2).sum().sqrt()), float((w.grad**2).sum().sqrt())
            if decay and norm:
                ratio = LARS.trust_coefficient * norm / (gradient_norm + decay * norm)
            v = self.state[w].setdefault("momentum_buffer", torch.zeros_like(w))
            v.copy_(LARS.momentum * v + group["lr"] * ratio * (w.grad + decay * w))
            w -= v


def test_lars_scales_each_matrix_by_its_own_ratio() -> None:
    expected, momentum = in_torch(LarsByHand, LARS, plain_batches())
    plain, _ = in_torch(torch.optim.SGD, LARS, plain_batches(), momentum=LARS.momentum)
    with engine(LARS) as running:
        advance(running, plain_batches())
        weights, state = running.weights(), running.optimizer_state()
    for name, value in used(expected).items():
        torch.testing.assert_close(weights[name], value)
        torch.testing.assert_close(state["momentum_buffer"][name], momentum[name])
    assert (weights[MASK] - plain[MASK]).abs().max() > 1e-3


def test_lars_leaves_a_layer_that_is_pruned_whole_at_zero() -> None:
    prepare_process("cpu", 1)
    net = network()
    net.backbone["right"].weight.data.zero_()
    net.backbone["right"].weight.register_hook(torch.zeros_like)
    with start_engine(net, LARS, "cpu") as running:
        advance(running, [[batch_of(step, 1)] for step in range(STEPS)])
        weights = running.weights()
    assert not weights["backbone.right.weight"].any()
    assert all(bool(value.isfinite().all()) for value in weights.values())


def test_lars_scales_vectors_only_if_they_are_decayed() -> None:
    results = []
    for recipe in (LARS, replace(LARS, decay_vectors=True)):
        with engine(recipe) as running:
            advance(running, plain_batches()[:1])
            results.append(running.weights()["backbone.first.bias"])
    w = network().get_parameter("backbone.first.bias").detach()
    lr = lr_at(LARS, 0)
    g = (w - results[0]) / lr
    decayed = g + LARS.weight_decay * w
    ratio = LARS.trust_coefficient * w.norm() / (g.norm() + LARS.weight_decay * w.norm())
    torch.testing.assert_close(results[1], w - lr * ratio * decayed)


def test_lars_on_flat_partitions_is_refused_by_the_engine_too() -> None:
    """DeepSpeed accepts it, and one ratio for the whole network would go unnoticed."""
    prepare_process("cpu", 1)
    with (
        pytest.raises(InvariantError, match="needs whole weights"),
        start_engine(network(), replace(LARS, zero=1), "cpu"),
    ):
        pass


@in_every_mode("recipe")
def test_pruned_weights_and_their_state_stay_exactly_zero(recipe: Recipe) -> None:
    with engine(recipe) as running:
        advance(running, plain_batches())
        weights, state = running.weights(), running.optimizer_state()
        module = running.net.state_dict()
    assert pruned_nonzero(weights, masks()) == pruned_nonzero(module, masks()) == 0
    kept = masks()[MASK].sum()
    assert torch.count_nonzero(weights[MASK]) == kept
    for values in state.values():
        if MASK in values:
            assert pruned_nonzero(values, masks()) == 0
            assert torch.count_nonzero(values[MASK]) == kept


@in_every_mode("recipe")
def test_state_moves_to_a_fresh_engine_bit_for_bit(recipe: Recipe) -> None:
    """The branch is used in some steps only: weights have been updated different numbers of
    times."""
    batches = [[batch_of(step, step % 3 == 0)] for step in range(STEPS)]
    with engine(recipe) as uninterrupted:
        advance(uninterrupted, batches[:3])
        weights, state = uninterrupted.weights(), uninterrupted.optimizer_state()
        advance(uninterrupted, batches, first=3)
        expected = kept_sha256(uninterrupted.weights(), {})
    with engine(recipe) as resumed:
        assert resumed.has_fresh_state()
        resumed.set_weights(weights)
        resumed.set_optimizer_state(state, 3)
        assert not resumed.has_fresh_state()
        assert resumed.update_count() == 3
        advance(resumed, batches, first=3)
        assert kept_sha256(resumed.weights(), {}) == expected
    with engine(recipe) as forgetful:  # control: without the state it shows
        forgetful.set_weights(weights)
        advance(forgetful, batches, first=3)
        assert kept_sha256(forgetful.weights(), {}) != expected


@pytest.mark.parametrize(("source", "target"), [(0, 1), (2, 0), (1, 2)])
def test_sgd_resumes_at_another_stage_bit_for_bit(source: int, target: int) -> None:
    recipe = replace(SGD, weight_decay=0.0)  # which would move the unused branch above stage 0
    with engine(replace(recipe, zero=source)) as first:  # type: ignore[arg-type]
        advance(first, plain_batches()[:3])
        weights, state = first.weights(), first.optimizer_state()
        advance(first, plain_batches(), first=3)
        expected = kept_sha256(first.weights(), {})
    with engine(replace(recipe, zero=target)) as second:  # type: ignore[arg-type]
        second.set_weights(weights)
        second.set_optimizer_state(state, 3)
        advance(second, plain_batches(), first=3)
        assert kept_sha256(second.weights(), {}) == expected


@pytest.mark.parametrize("recipe", [SGD, LARS], ids=["sgd", "lars"])
def test_a_weight_may_get_its_first_gradient_later_than_others(recipe: Recipe) -> None:
    batches = [[batch_of(step, step > 2)] for step in range(STEPS)]
    expected, _ = (
        in_torch(torch.optim.SGD, recipe, batches, momentum=recipe.momentum)
        if recipe is SGD
        else in_torch(LarsByHand, recipe, batches)
    )
    with engine(recipe) as running:
        advance(running, batches)
        weights = running.weights()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_an_unused_weight_stands_still_at_stage_0_and_has_gradient_zero_above(
    stage: dict[str, Any],
) -> None:
    """Both with branches that change by step, and with micro-batches that use different ones."""
    batches = [[batch_of(step, step % 2), batch_of(step + 9, 1)] for step in range(STEPS)]
    batches[3:] = [[batch_of(step, 0)] for step in range(3, STEPS)]
    expected, _ = in_torch(
        torch.optim.SGD, SGD, batches, momentum=0.9, unused_is_zero=stage["zero"] > 0
    )
    with engine(replace(SGD, **stage)) as running:
        advance(running, batches)
        assert kept_sha256(running.weights(), {}) == kept_sha256(expected, {})


@pytest.mark.parametrize("recipe", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_parameter_groups_have_their_own_factor(recipe: Recipe) -> None:
    """A group's learning rate is that of a run with the product as its learning rate."""
    groups = {"side": ("backbone.left.", "backbone.right."), "bias": ("backbone.left.bias",)}
    scaled = replace(recipe, lr_scales=(("bias", 0.5), ("side", 3.0)), head_lr_scale=2.0)

    def moved(recipe: Recipe) -> dict[str, Tensor]:
        prepare_process("cpu", 1)
        start = network().state_dict()
        with start_engine(network(), recipe, "cpu", groups) as running:
            advance(running, plain_batches()[:1])
            assert len(set(running.learning_rates())) in (1, 4)
            return {name: value - start[name] for name, value in running.weights().items()}

    plain, result = moved(recipe), moved(scaled)
    for name, factor in {
        "backbone.first.weight": 1.0,
        "backbone.left.weight": 3.0,
        "backbone.left.bias": 0.5,
        "head.weight": 2.0,
    }.items():
        torch.testing.assert_close(result[name], factor * plain[name], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    "groups",
    [
        {"side": ("left.",)},
        {"side": ("backbone.left.",), "w": ("backbone.left.w",), "b": ("backbone.left.b",)},
    ],
)
def test_a_factor_on_a_group_without_weights_is_refused(groups: dict[str, tuple[str, ...]]) -> None:
    """Its prefixes match nothing, or longer ones of other groups take all of its weights."""
    recipe = replace(SGD, lr_scales=tuple(dict.fromkeys(groups, 3.0).items()))
    with pytest.raises(RecipeError, match=r"lr_scales: side = 3.0 has no effect"):
        build_optimizer(dict(network().named_parameters()), recipe, groups)


class SignSgd(torch.optim.Optimizer):
    """An optimizer from outside the package."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    momentum = self.state[weight]["velocity"]
                    momentum.add_(weight.grad).mul_(0.5)
                    weight.sub_(momentum.sign() * group["lr"])


def state_names(recipe: Recipe) -> tuple[str, ...]:
    return ("velocity",)


def build(groups: list[dict[str, Any]], recipe: Recipe) -> SignSgd:
    return SignSgd(groups, recipe.lr)


def settings(recipe: Recipe, lr: float, update: int) -> dict[str, float]:
    return {"lr": lr}


@pytest.mark.parametrize("mode", [*STAGES, BF16[0]], ids=str)
def test_an_optimizer_from_outside_is_a_module_and_an_entry(mode: dict[str, Any]) -> None:
    recipe = replace(RECIPE, optimizer="sign", **mode)
    with (
        registered(OPTIMIZERS, "sign", OptimizerEntry(module=__name__)),
        engine(recipe) as running,
    ):
        advance(running, plain_batches()[:3])
        weights, state = running.weights(), running.optimizer_state()
        advance(running, plain_batches(), first=3)
        expected = kept_sha256(running.weights(), {})
        with engine(recipe) as resumed:
            resumed.set_weights(weights)
            resumed.set_optimizer_state(state, 3)
            advance(resumed, plain_batches(), first=3)
            assert kept_sha256(resumed.weights(), {}) == expected
    assert state.keys() == {"velocity"}
    assert pruned_nonzero(weights, masks()) == pruned_nonzero(state["velocity"], masks()) == 0


@pytest.mark.parametrize("mode", [STAGES[0], STAGES[2], BF16[0]], ids=str)
def test_masters_are_the_float32_weights(mode: dict[str, Any]) -> None:
    with engine(replace(ADAMW, **mode)) as running:
        advance(running, plain_batches()[:2])
        masters = running.masters()
        assert kept_sha256(masters, {}) == kept_sha256(running.weights(), {})
        assert {value.dtype for value in masters.values()} == {torch.float32}


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_weights_in_channels_last_format_train_as_contiguous_ones(zero: int) -> None:
    """DeepSpeed fails on them. Inputs may have the format."""

    class Convolution(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Conv2d(3, 4, 3)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return torch.nn.functional.relu(self.head(batch["x"]))

    def trained(weights: torch.memory_format, inputs: torch.memory_format) -> str:
        prepare_process("cpu", 1)
        torch.manual_seed(0)
        net = Convolution().to(memory_format=weights)  # type: ignore[call-overload]
        with start_engine(net, replace(SGD, zero=zero), "cpu") as running:  # type: ignore[arg-type]
            for step in range(2):
                generator = torch.Generator().manual_seed(step)
                x = torch.randn(2, 3, 8, 8, generator=generator).to(memory_format=inputs)
                running.step([MicroBatch({"x": x}, 1.0)], plain_objective(loss), 1e-2)
            return kept_sha256(running.weights(), {})

    contiguous = trained(torch.contiguous_format, torch.channels_last)
    assert trained(torch.channels_last, torch.channels_last) == contiguous
