"""A small network with a mask and a branch, and a plain torch loop to compare optimizers with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.distributed.process import prepare_process
from trainables.optim.schedules import lr_at
from trainables.spec import Recipe
from trainables.tickets.weights import applied
from trainables.training.adversary import plain_objective
from trainables.training.engine import Engine, MicroBatch, start_engine

STEPS = 6
RECIPE = Recipe(steps=STEPS, batch_size=4, lr=0.1, weight_decay=0.1, clip_norm=0.0, dropout=0.0)
SGD = replace(RECIPE, optimizer="sgd")
NESTEROV = replace(SGD, nesterov=True, head_lr_scale=2.0)
LARS = replace(RECIPE, optimizer="lars", trust_coefficient=0.1)
ADAMW = replace(RECIPE, lr=1e-2)
Batch = Mapping[str, Tensor]
State = dict[str, dict[str, Tensor]]
MASK = "backbone.first.weight"


class Branches(nn.Module):
    """A network in which only batches with the key `branch` use the branch of that number."""

    def __init__(self) -> None:
        super().__init__()
        # Stage 3 shards weights of more than 4,000 elements only.
        self.backbone = nn.ModuleDict(
            {
                "first": nn.Linear(5, 1000),
                "left": nn.Linear(1000, 4),
                "right": nn.Linear(1000, 4),
            }
        )
        self.head = nn.Linear(4, 2)

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.backbone["first"](batch["x"].to(self.head.weight.dtype)).tanh()
        name = ("left", "right")[int(batch["branch"])] if "branch" in batch else "left"
        out: Tensor = self.head(self.backbone[name](hidden).tanh())
        return out.float()


def network() -> Branches:
    torch.manual_seed(0)
    return Branches()


def masks() -> dict[str, NDArray[np.bool_]]:
    return {MASK: np.random.default_rng(0).random((1000, 5)) < 0.3}


def loss(logits: Tensor, batch: Batch) -> Tensor:
    return (logits**2).mean()


def batch_of(number: int, branch: int | None = None) -> dict[str, Tensor]:
    batch = {"x": torch.randn(4, 5, generator=torch.Generator().manual_seed(number))}
    return batch if branch is None else batch | {"branch": torch.tensor(branch)}


def plain_batches() -> list[list[dict[str, Tensor]]]:
    """Return the micro-batches of all steps, one per step, none of which uses the right branch."""
    return [[batch_of(step)] for step in range(STEPS)]


@contextmanager
def engine(recipe: Recipe, masked: bool = True) -> Iterator[Engine]:
    prepare_process("cpu", 1)
    net = network()
    with ExitStack() as stack:
        stack.enter_context(applied(net, masks() if masked else {}))
        yield stack.enter_context(start_engine(net, recipe, "cpu"))


def advance(
    running: Engine, batches: Sequence[Sequence[Batch]], first: int = 0, workers: int = 1
) -> None:
    """Train on the micro-batches `batches`, from step `first` on. All workers take the same ones,
    each with its share of the loss."""
    for step in range(first, len(batches)):
        parts = [MicroBatch(batch, len(batches[step]) * workers) for batch in batches[step]]
        running.step(parts, plain_objective(loss), lr_at(running.recipe, step))


def in_torch(
    optimizer: type[torch.optim.Optimizer],
    recipe: Recipe,
    batches: Sequence[Sequence[Batch]],
    *,
    unused_is_zero: bool = False,
    masked: bool = True,
    **options: Any,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train in a plain loop with the recipe's parameter groups and masks. Return the weights and
    the momentum.

    `unused_is_zero` gives weights that a step does not use zero gradients, instead of none.
    """
    net = network()
    keep = {name: torch.from_numpy(mask) for name, mask in masks().items()} if masked else {}
    named = dict(net.named_parameters())
    for name, mask in keep.items():
        named[name].data.mul_(mask)
    groups = [
        {
            "params": [weight],
            "weight_decay": recipe.weight_decay if weight.ndim > 1 else 0.0,
            "scale": recipe.head_lr_scale if name.startswith("head.") else 1.0,
        }
        for name, weight in named.items()
    ]
    running = optimizer(groups, lr=recipe.lr, **options)  # type: ignore[call-arg]
    for step, parts in enumerate(batches):
        running.zero_grad()
        if unused_is_zero:
            for weight in net.parameters():
                weight.grad = torch.zeros_like(weight)
        for batch in parts:
            (loss(net(batch), batch) / len(parts)).backward()  # type: ignore[no-untyped-call]
        for name, mask in keep.items():
            gradient = named[name].grad
            assert gradient is not None
            gradient.mul_(mask)
        for group in running.param_groups:
            group["lr"] = lr_at(recipe, step) * group["scale"]
        running.step()
    momentum = {
        name: running.state[weight]["momentum_buffer"]
        for name, weight in named.items()
        if "momentum_buffer" in running.state[weight]
    }
    return {name: weight.detach() for name, weight in named.items()}, momentum
