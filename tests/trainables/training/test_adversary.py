"""VILLA's inner loop on a small network, compared with the published loop in plain torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.support.runs import micro_batches
from trainables.distributed.process import prepare_process
from trainables.spec import Recipe
from trainables.tasks.heads import symmetric_kl
from trainables.tickets.weights import applied, kept_sha256, pruned_nonzero
from trainables.training.adversary import TrainingObjective, plain_objective, training_objective
from trainables.training.engine import Engine, start_engine

HIDDEN, DIM, WORDS, REGIONS = 6, 5, 4, 3
RECIPE = Recipe(
    steps=8,
    batch_size=8,
    accumulate=2,
    lr=1e-2,
    dropout=0.0,
    adversary="both",
    adversary_steps=3,
    adversary_lr=0.5,
    adversary_kl=1.5,
)
MODES = ["text", "image", "both", "alternate"]
STAGES = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("bf16", 0), ("bf16", 2)]
Batch = Mapping[str, Tensor]


class PoolingNetwork(nn.Module):
    """Embeds words and regions, and pools over those that are not padding."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict(
            {
                "words": nn.Embedding(11, HIDDEN),
                "regions": nn.Linear(DIM, HIDDEN),
                "mix": nn.Linear(2 * HIDDEN, 12),
            }
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(12, 3)

    def forward(self, batch: Batch) -> Tensor:
        modules = self.backbone
        words = modules["words"](batch["input_ids"])
        if "text_delta" in batch:
            words = words + batch["text_delta"].to(words.dtype)
        features = batch["region_features"]
        if "image_delta" in batch:
            features = features + batch["image_delta"]
        regions = modules["regions"](features.to(words.dtype))
        pooled = torch.cat(
            [
                (words.tanh() * batch["text_mask"][..., None]).sum(1),
                (regions.tanh() * batch["region_mask"][..., None]).sum(1),
            ],
            dim=1,
        )
        logits: Tensor = self.head(self.dropout(modules["mix"](pooled).tanh()))
        return logits.float()


class LabelTask:
    """The part of a task that the objective needs."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)


TASK: Any = LabelTask()


def batches(step: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return [
        {
            "input_ids": torch.randint(11, (size, WORDS), generator=generator),
            "text_mask": torch.arange(WORDS)
            < torch.randint(2, WORDS, (size, 1), generator=generator),
            "region_features": torch.randn(size, REGIONS, DIM, generator=generator),
            "region_mask": torch.arange(REGIONS)
            < torch.randint(1, REGIONS, (size, 1), generator=generator),
            "labels": torch.randint(3, (size,), generator=generator),
        }
        for size in (4, 4)
    ]


def masks() -> dict[str, NDArray[np.bool_]]:
    return {"backbone.mix.weight": np.random.default_rng(0).random((12, 2 * HIDDEN)) < 0.4}


def network(dropout: float = 0.0) -> PoolingNetwork:
    torch.manual_seed(0)
    return PoolingNetwork(dropout)


@contextmanager
def engine(recipe: Recipe, *, masked: bool = True) -> Iterator[Engine]:
    prepare_process("cpu", 1)
    net = network(recipe.dropout)
    with ExitStack() as stack:
        if masked:
            stack.enter_context(applied(net, masks()))
        yield stack.enter_context(start_engine(net, recipe, "cpu"))


def objective(recipe: Recipe) -> TrainingObjective:
    return training_objective(TASK, recipe, HIDDEN)


def gradients(net: PoolingNetwork, recipe: Recipe, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """Return the objective's value and the gradients it leaves on the weights, by plain
    autograd."""
    total = 0.0
    for value in objective(recipe)(net, batch, 1):
        total += value.item()
        value.backward()  # type: ignore[no-untyped-call]
    return total, {name: weight.grad.clone() for name, weight in net.named_parameters()}


def published_gradients(
    net: PoolingNetwork, recipe: Recipe, batch: Batch
) -> tuple[float, dict[str, Tensor]]:
    """Return the same by VILLA's loop, which keeps the clean graph and backpropagates through it K
    times."""
    shape = {
        "text": (*batch["input_ids"].shape, HIDDEN),
        "image": batch["region_features"].shape,
    }
    valid = {"text": batch["text_mask"][..., None], "image": batch["region_mask"][..., None]}
    groups = {"both": [["text", "image"]], "alternate": [["text"], ["image"]]}.get(
        recipe.adversary, [[recipe.adversary]]
    )
    delta = {kind: torch.zeros(size) for kind, size in shape.items()}
    clean = net(batch)
    total = 0.0
    for _ in range(recipe.adversary_steps):
        for kinds in groups:
            for kind in kinds:
                delta[kind] = delta[kind].detach().requires_grad_()
            logits = net({**batch, **{f"{kind}_delta": delta[kind] for kind in kinds}})
            loss = cross_entropy(logits, batch["labels"])
            loss = loss + recipe.adversary_kl * symmetric_kl(clean, logits)
            loss = loss / (recipe.adversary_steps * len(groups))
            loss.backward(retain_graph=True)
            total += loss.item()
            for kind in kinds:
                moved = delta[kind].detach()
                for row in range(len(moved)):
                    g = delta[kind].grad[row] * valid[kind][row]
                    moved[row] += recipe.adversary_lr * g / max(float(g.norm()), 1e-8)
                    if recipe.adversary_max_norm and moved[row].norm() > recipe.adversary_max_norm:
                        moved[row] *= recipe.adversary_max_norm / moved[row].norm()
    return total, {name: weight.grad for name, weight in net.named_parameters()}


@pytest.mark.parametrize("max_norm", [0.0, 0.4])
@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_equals_that_of_the_published_loop(mode: Any, max_norm: float) -> None:
    recipe = replace(RECIPE, adversary=mode, adversary_max_norm=max_norm)
    batch = batches(0)[0]
    value, actual = gradients(network(), recipe, batch)
    expected_value, expected = published_gradients(network(), recipe, batch)
    assert value == pytest.approx(expected_value, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_the_engine_takes_the_step_of_the_published_gradient(stage: tuple[str, int]) -> None:
    """The step has two micro-batches and clipping."""
    recipe = replace(
        RECIPE,
        precision=stage[0],  # type: ignore[arg-type]
        zero=stage[1],  # type: ignore[arg-type]
        eps=0.1,  # otherwise Adam's first step is the gradient's sign, which rounding can flip
    )
    with engine(recipe, masked=False) as trained:
        trained.step(micro_batches(batches(0)), objective(recipe), 1e-2)
        actual = trained.weights()
    net = network()
    total: dict[str, Tensor] = {}
    for batch in batches(0):
        net.zero_grad()
        for name, gradient in published_gradients(net, recipe, batch)[1].items():
            total[name] = total.get(name, 0) + gradient / 2
    for name, weight in net.named_parameters():
        weight.grad = total[name]
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
    groups = [[w for w in net.parameters() if (w.ndim > 1) == matrix] for matrix in (True, False)]
    torch.optim.AdamW(
        [
            {"params": groups[0], "weight_decay": recipe.weight_decay},
            {"params": groups[1], "weight_decay": 0.0},
        ],
        lr=1e-2,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
    ).step()
    tolerance = 3e-4 if stage[0] == "bf16" else 1e-6
    for name, weight in net.named_parameters():
        assert (actual[name] - weight.detach()).abs().max() < tolerance


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_not_perturbed(mode: Any) -> None:
    recipe = replace(RECIPE, adversary=mode)
    net, batch = network(), batches(0)[0]
    inputs: list[Batch] = []

    def forward(perturbed: Batch) -> Tensor:
        inputs.append(perturbed)
        # The sum depends on the perturbation at padding too.
        return net(perturbed) + sum(
            value.sum(dim=(1, 2))[:, None]
            for name, value in perturbed.items()
            if name.endswith("_delta")
        )

    for value in objective(recipe)(forward, batch, 1):
        value.backward()  # type: ignore[no-untyped-call]
    for name, mask in (("text_delta", "text_mask"), ("image_delta", "region_mask")):
        deltas = [each[name] for each in inputs if name in each]
        for delta in deltas:
            assert not delta[~batch[mask]].any()
        for first, last in [(deltas[0], deltas[-1])] if deltas else []:
            assert not first.any()
            steps = recipe.adversary_steps - 1
            norms = last.flatten(1).norm(dim=1)
            assert (norms > 0).all()
            assert (norms <= steps * recipe.adversary_lr * (1 + 1e-5)).all()


def test_only_pixels_inside_patches_are_perturbed() -> None:
    recipe = replace(RECIPE, adversary="image", adversary_steps=2)
    weight = torch.randn(3 * 4 * 4, 3, generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": torch.zeros(2, 1, dtype=torch.int64),
        "pixel_values": torch.zeros(2, 3, 4, 4),
        "patch_mask": torch.tensor([[[1, 1], [1, 1]], [[1, 0], [0, 0]]], dtype=torch.bool),
        "labels": torch.tensor([0, 1]),
    }
    deltas: list[Tensor] = []

    def forward(perturbed: Batch) -> Tensor:
        delta = perturbed.get("image_delta", torch.zeros(()))
        deltas.append(delta)
        return (perturbed["pixel_values"] + delta).flatten(1) @ weight

    for value in objective(recipe)(forward, batch, 1):
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
    last = deltas[-1]
    assert last.shape == batch["pixel_values"].shape
    assert last[0].all()
    assert last[1, :, :2, :2].all()
    assert torch.count_nonzero(last[1]) == 3 * 4


def test_a_single_ascent_step_is_plain_training() -> None:
    """The first step has no perturbation, and the divergence of a prediction from itself is 0."""
    recipe = replace(RECIPE, adversary_steps=1)
    runs = []
    for kind in (
        plain_objective(TASK.loss),
        objective(recipe),
        objective(replace(recipe, adversary_kl=0.0)),
    ):
        with engine(recipe) as each:
            losses = [each.step(micro_batches(batches(step)), kind, 1e-2) for step in range(3)]
            runs.append((losses, each.weights()))
    for losses, weights in runs[1:]:
        assert losses == pytest.approx(runs[0][0], rel=1e-6)
        for name, value in runs[0][1].items():
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_a_ticket_holds_and_a_resumed_run_is_the_same(mode: Any, stage: tuple[str, int]) -> None:
    recipe = replace(
        RECIPE,
        adversary=mode,
        dropout=0.2,
        precision=stage[0],  # type: ignore[arg-type]
        zero=stage[1],  # type: ignore[arg-type]
    )

    def advance(engine: Engine, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last):
            torch.manual_seed(step)
            losses.append(engine.step(micro_batches(batches(step)), objective(recipe), 1e-2))
        return losses

    with engine(recipe) as uninterrupted:
        advance(uninterrupted, 0, 2)
        weights, moments = uninterrupted.weights(), uninterrupted.optimizer_state()
        losses = advance(uninterrupted, 2, 4)
        final = uninterrupted.weights()
        module = uninterrupted.net.state_dict()
    assert pruned_nonzero(final, masks()) == pruned_nonzero(module, masks()) == 0
    with engine(recipe) as resumed:
        resumed.set_weights(weights)
        resumed.set_optimizer_state(moments, 2)
        assert advance(resumed, 2, 4) == losses
        assert kept_sha256(resumed.weights(), {}) == kept_sha256(final, {})
