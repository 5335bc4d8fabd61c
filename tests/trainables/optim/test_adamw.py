"""The optimizer against plain implementations of the papers' optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.runs import micro_batches
from trainables.distributed.process import prepare_process
from trainables.optim.schedules import lr_at
from trainables.spec import Recipe
from trainables.training.adversary import plain_objective
from trainables.training.engine import start_engine

RECIPE = Recipe(
    steps=12, batch_size=4, lr=1e-2, weight_decay=0.1, beta2=0.999, eps=1e-3, clip_norm=0.0
)
BERT_ADAM = replace(RECIPE, bias_correction=False, decay_vectors=True)
STAGES: list[dict[str, Any]] = [
    {"zero": 0},
    {"zero": 1},
    {"zero": 2},
]
Batch = Mapping[str, Tensor]


class Line(nn.Module):
    """A network with one weight that never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(5, 4)
        self.head = nn.Linear(4, 2)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, batch: Batch) -> Tensor:
        out: Tensor = self.head(self.backbone(batch["x"]).tanh())
        return out


def loss(logits: Tensor, batch: Batch) -> Tensor:
    return (logits**2).mean()


def line() -> Line:
    torch.manual_seed(0)
    return Line()


def batches() -> Iterator[dict[str, Tensor]]:
    for step in range(RECIPE.steps):
        yield {"x": torch.randn(4, 5, generator=torch.Generator().manual_seed(step))}


def trained(recipe: Recipe) -> dict[str, Tensor]:
    prepare_process("cpu", 1)
    with start_engine(line(), recipe, "cpu") as engine:
        for step, batch in enumerate(batches()):
            engine.step(micro_batches([batch]), plain_objective(loss), lr_at(recipe, step))
        assert engine.update_count() == recipe.steps
        return engine.weights()


def by_hand(recipe: Recipe) -> dict[str, Tensor]:
    """AdamW, or BertAdam (pytorch-pretrained-BERT 0.6): m / (sqrt(v) + eps), uncorrected."""
    net = line()
    m = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
    v = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
    for step, batch in enumerate(batches()):
        net.zero_grad()
        loss(net(batch), batch).backward()  # type: ignore[no-untyped-call]
        for name, weight in net.named_parameters():
            if weight.grad is None:
                continue
            m[name] = recipe.beta1 * m[name] + (1 - recipe.beta1) * weight.grad
            v[name] = recipe.beta2 * v[name] + (1 - recipe.beta2) * weight.grad**2
            first, second = m[name], v[name]
            if recipe.bias_correction:
                first = first / (1 - recipe.beta1 ** (step + 1))
                second = second / (1 - recipe.beta2 ** (step + 1))
            update = first / (second.sqrt() + recipe.eps)
            if weight.ndim > 1 or recipe.decay_vectors:
                update = update + recipe.weight_decay * weight.detach()
            scale = recipe.head_lr_scale if name.startswith("head.") else 1.0
            with torch.no_grad():
                weight -= lr_at(recipe, step) * scale * update
    return {name: value.detach() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("recipe", [RECIPE, BERT_ADAM, replace(BERT_ADAM, head_lr_scale=10.0)])
def test_training_matches_the_papers_optimizers(recipe: Recipe, stage: dict[str, Any]) -> None:
    actual = trained(replace(recipe, **stage))
    expected = by_hand(recipe)
    for name in ("backbone.weight", "backbone.bias", "head.weight", "head.bias"):
        torch.testing.assert_close(actual[name], expected[name], rtol=2e-5, atol=2e-6)


def test_bias_correction_and_decay_of_vectors_change_the_result() -> None:
    base = trained(RECIPE)
    uncorrected = trained(replace(RECIPE, bias_correction=False))
    decayed = trained(replace(RECIPE, decay_vectors=True))
    assert (base["backbone.weight"] - uncorrected["backbone.weight"]).abs().max() > 1e-3
    assert (base["backbone.bias"] - decayed["backbone.bias"]).abs().max() > 1e-6


def test_a_weight_without_a_gradient_does_not_change() -> None:
    assert torch.equal(trained(RECIPE)["unused"], torch.ones(3))
