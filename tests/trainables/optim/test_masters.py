"""bf16 at ZeRO 0: the float32 masters, step by step against the arithmetic written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.support.optimizers import (
    ADAMW,
    MASK,
    SGD,
    Batch,
    advance,
    batch_of,
    engine,
    loss,
    masks,
    network,
    plain_batches,
)
from trainables.distributed.process import prepare_process
from trainables.errors import InvariantError
from trainables.optim.schedules import lr_at
from trainables.spec import Recipe
from trainables.training.adversary import plain_objective
from trainables.training.engine import Engine, MicroBatch, start_engine

CLIP = 0.02
BATCHES = [[batch_of(step), batch_of(step + 9)] for step in range(4)]
State = dict[str, Tensor]


def adamw(w: Tensor, g: Tensor, state: State, lr: float, decay: float, update: int) -> Tensor:
    """Loshchilov and Hutter 2019, Algorithm 2."""
    m = ADAMW.beta1 * state["exp_avg"] + (1 - ADAMW.beta1) * g
    v = ADAMW.beta2 * state["exp_avg_sq"] + (1 - ADAMW.beta2) * g**2
    m, v = m / (1 - ADAMW.beta1**update), v / (1 - ADAMW.beta2**update)
    return w - lr * decay * w - lr * m / (v.sqrt() + ADAMW.eps)


def sgd(w: Tensor, g: Tensor, state: State, lr: float, decay: float, update: int) -> Tensor:
    return w - lr * (SGD.momentum * state["momentum_buffer"] + g + decay * w)


@pytest.mark.parametrize(("recipe", "by_hand"), [(ADAMW, adamw), (SGD, sgd)], ids=["adamw", "sgd"])
@pytest.mark.parametrize("clip_norm", [0.0, CLIP])
def test_a_step_updates_float32_masters_by_clipped_bfloat16_gradients(
    recipe: Recipe, by_hand: Callable[..., Tensor], clip_norm: float
) -> None:
    keep = torch.from_numpy(masks()[MASK])
    with engine(replace(recipe, precision="bf16", clip_norm=clip_norm, accumulate=2)) as running:
        for step, parts in enumerate(BATCHES):
            before, state = running.weights(), running.optimizer_state()
            twin = network().bfloat16()
            twin.load_state_dict({name: w.bfloat16() for name, w in before.items()})
            for part in parts:
                (loss(twin(part), part) / 2).backward()  # type: ignore[no-untyped-call]
            gradients = {
                name: w.grad.float() * (keep if name == MASK else 1)
                for name, w in twin.named_parameters()
                if w.grad is not None
            }
            norm = sum(float((g.double() ** 2).sum()) for g in gradients.values()) ** 0.5
            factor = min(1.0, clip_norm / norm) if clip_norm else 1.0
            assert not clip_norm or factor < 0.9
            running.step(
                [MicroBatch(part, 2) for part in parts], plain_objective(loss), lr_at(recipe, step)
            )
            after, module = running.weights(), running.net.state_dict()
            for name, w in before.items():
                expected = w
                if name in gradients:
                    expected = by_hand(
                        w,
                        gradients[name] * factor,
                        {key: values[name] for key, values in state.items() if name in values},
                        lr_at(recipe, step),
                        recipe.weight_decay if w.ndim > 1 else 0.0,
                        step + 1,
                    )
                torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=1e-7)
                assert module[name].dtype == torch.bfloat16
                assert torch.equal(module[name], after[name].bfloat16())
    assert "backbone.right.weight" not in gradients  # no batch uses it


def not_finite(logits: Tensor, batch: Batch) -> Tensor:
    """Has the value 0 and gradients that are NaN."""
    return (logits * 0.0).abs().sqrt().sum()


def state_of(running: Engine) -> State:
    """Return copies of masters, moments and the module's own weights."""
    module = {name: value.clone() for name, value in running.net.state_dict().items()}
    state = running.optimizer_state()
    groups = {"master": running.weights(), "module": module, "m": state["exp_avg"]}
    return {f"{key}/{name}": t for key, tensors in groups.items() for name, t in tensors.items()}


@pytest.mark.parametrize("zero", [0, 1])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(zero: int) -> None:
    with engine(replace(ADAMW, precision="bf16", zero=zero)) as running:  # type: ignore[arg-type]
        advance(running, plain_batches()[:2])
        before = state_of(running)
        with pytest.raises(InvariantError, match="not finite"):
            running.step([MicroBatch(batch_of(2), 1)], plain_objective(not_finite), 1e-2)
        after = state_of(running)
    for name, value in before.items():
        assert torch.equal(after[name], value), name


def test_a_gradient_that_is_not_finite_is_refused_in_float32_too() -> None:
    with (
        engine(replace(ADAMW, clip_norm=1.0)) as running,
        pytest.raises(InvariantError, match="not finite"),
    ):
        running.step([MicroBatch(batch_of(0), 1)], plain_objective(not_finite), 1e-2)


def test_frozen_weights_keep_their_low_bits() -> None:
    prepare_process("cpu", 1)
    net = network()
    frozen: nn.Parameter = net.get_parameter(MASK)
    frozen.requires_grad_(False)
    start = frozen.detach().clone()
    assert not torch.equal(start, start.bfloat16().float())
    with start_engine(net, replace(ADAMW, precision="bf16"), "cpu") as running:
        advance(running, plain_batches()[:2])
        assert torch.equal(running.weights()[MASK], start)
        assert torch.equal(running.masters()[MASK], start)
