"""VILLA's inner loop on a small network, against the published loop written out in plain torch."""

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

from tests.support.runs import evenly
from trainables.distributed.process import prepare_process
from trainables.spec import Recipe
from trainables.tasks.heads import symmetric_kl
from trainables.tickets.weights import kept_sha256, pruned_nonzero, wearing
from trainables.training.adversary import Objective, objective_of, plain
from trainables.training.engine import Engine, started

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
STAGES = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("bf16", 1), ("bf16", 2)]
Batch = Mapping[str, Tensor]


class Reader(nn.Module):
    """Words and regions, pooled over what is no padding; dropout where it is asked for."""

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
        part = self.backbone
        words = part["words"](batch["input_ids"])
        if "text_delta" in batch:
            words = words + batch["text_delta"].to(words.dtype)
        seen = batch["region_features"]
        if "image_delta" in batch:
            seen = seen + batch["image_delta"]
        regions = part["regions"](seen.to(words.dtype))
        pooled = torch.cat(
            [
                (words.tanh() * batch["text_mask"][..., None]).sum(1),
                (regions.tanh() * batch["region_mask"][..., None]).sum(1),
            ],
            dim=1,
        )
        logits: Tensor = self.head(self.dropout(part["mix"](pooled).tanh()))
        return logits.float()


class Labels:
    """Of a task, what the objective needs."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch["labels"])

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)


TASK: Any = Labels()


def batches(step: int) -> list[dict[str, Tensor]]:
    chance = torch.Generator().manual_seed(step)
    return [
        {
            "input_ids": torch.randint(11, (size, WORDS), generator=chance),
            "text_mask": torch.arange(WORDS) < torch.randint(2, WORDS, (size, 1), generator=chance),
            "region_features": torch.randn(size, REGIONS, DIM, generator=chance),
            "region_mask": torch.arange(REGIONS)
            < torch.randint(1, REGIONS, (size, 1), generator=chance),
            "labels": torch.randint(3, (size,), generator=chance),
        }
        for size in (4, 4)
    ]


def masks() -> dict[str, NDArray[np.bool_]]:
    return {"backbone.mix.weight": np.random.default_rng(0).random((12, 2 * HIDDEN)) < 0.4}


def reader(dropout: float = 0.0) -> Reader:
    torch.manual_seed(0)
    return Reader(dropout)


@contextmanager
def engine(recipe: Recipe, *, masked: bool = True) -> Iterator[Engine]:
    prepare_process("cpu", 1)
    net = reader(recipe.dropout)
    with ExitStack() as stack:
        if masked:
            stack.enter_context(wearing(net, masks()))
        yield stack.enter_context(started(net, recipe, "cpu"))


def objective(recipe: Recipe) -> Objective:
    return objective_of(TASK, recipe, HIDDEN)


def gradients(net: Reader, recipe: Recipe, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """What our objective leaves on the weights, by plain autograd, and its value."""
    total = 0.0
    for value in objective(recipe)(net, batch, 1):
        total += value.item()
        value.backward()  # type: ignore[no-untyped-call]
    return total, {name: weight.grad.clone() for name, weight in net.named_parameters()}


def published(net: Reader, recipe: Recipe, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """The same as VILLA's loop has it: the clean graph kept, and gone back through K times."""
    shape = {
        "text": (*batch["input_ids"].shape, HIDDEN),
        "image": batch["region_features"].shape,
    }
    real = {"text": batch["text_mask"][..., None], "image": batch["region_mask"][..., None]}
    rounds = {"both": [["text", "image"]], "alternate": [["text"], ["image"]]}.get(
        recipe.adversary, [[recipe.adversary]]
    )
    delta = {kind: torch.zeros(size) for kind, size in shape.items()}
    clean = net(batch)
    total = 0.0
    for _ in range(recipe.adversary_steps):
        for kinds in rounds:
            for kind in kinds:
                delta[kind] = delta[kind].detach().requires_grad_()
            logits = net({**batch, **{f"{kind}_delta": delta[kind] for kind in kinds}})
            loss = cross_entropy(logits, batch["labels"])
            loss = loss + recipe.adversary_kl * symmetric_kl(clean, logits)
            loss = loss / (recipe.adversary_steps * len(rounds))
            loss.backward(retain_graph=True)
            total += loss.item()
            for kind in kinds:
                size = delta[kind].detach()
                for row in range(len(size)):
                    g = delta[kind].grad[row] * real[kind][row]
                    size[row] += recipe.adversary_lr * g / max(float(g.norm()), 1e-8)
                    if recipe.adversary_max_norm and size[row].norm() > recipe.adversary_max_norm:
                        size[row] *= recipe.adversary_max_norm / size[row].norm()
    return total, {name: weight.grad for name, weight in net.named_parameters()}


@pytest.mark.parametrize("max_norm", [0.0, 0.4])
@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_the_published_loops(mode: Any, max_norm: float) -> None:
    recipe = replace(RECIPE, adversary=mode, adversary_max_norm=max_norm)
    batch = batches(0)[0]
    value, ours = gradients(reader(), recipe, batch)
    expected, theirs = published(reader(), recipe, batch)
    assert value == pytest.approx(expected, rel=1e-5)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_the_engine_takes_the_step_of_that_gradient(stage: tuple[str, int]) -> None:
    """Over two micro-batches, clipped, from the same weights, with the same optimizer."""
    recipe = replace(
        RECIPE,
        precision=stage[0],  # type: ignore[arg-type]
        zero=stage[1],  # type: ignore[arg-type]
        eps=0.1,  # else Adam's first step is the gradient's sign, which rounding can turn round
    )
    with engine(recipe, masked=False) as ours:
        ours.step(evenly(batches(0)), objective(recipe), 1e-2)
        moved = ours.weights()
    net = reader()
    whole: dict[str, Tensor] = {}
    for batch in batches(0):
        net.zero_grad()
        for name, gradient in published(net, recipe, batch)[1].items():
            whole[name] = whole.get(name, 0) + gradient / 2
    for name, weight in net.named_parameters():
        weight.grad = whole[name]
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
    worst = 3e-4 if stage[0] == "bf16" else 1e-6
    for name, weight in net.named_parameters():
        assert (moved[name] - weight.detach()).abs().max() < worst


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_not_perturbed(mode: Any) -> None:
    recipe = replace(RECIPE, adversary=mode)
    net, batch = reader(), batches(0)[0]
    seen: list[Batch] = []

    def forward(given: Batch) -> Tensor:
        seen.append(given)
        # Even where the network looks at padding.
        return net(given) + sum(
            value.sum(dim=(1, 2))[:, None]
            for name, value in given.items()
            if name.endswith("_delta")
        )

    for value in objective(recipe)(forward, batch, 1):
        value.backward()  # type: ignore[no-untyped-call]
    for name, mask in (("text_delta", "text_mask"), ("image_delta", "region_mask")):
        deltas = [given[name] for given in seen if name in given]
        for delta in deltas:
            assert not delta[~batch[mask]].any()
        for first, last in [(deltas[0], deltas[-1])] if deltas else []:
            assert not first.any()
            steps = recipe.adversary_steps - 1
            norms = last.flatten(1).norm(dim=1)
            assert (norms > 0).all()
            assert (norms <= steps * recipe.adversary_lr * (1 + 1e-5)).all()


def test_pixels_are_perturbed_inside_their_patches_only() -> None:
    recipe = replace(RECIPE, adversary="image", adversary_steps=2)
    weight = torch.randn(3 * 4 * 4, 3, generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": torch.zeros(2, 1, dtype=torch.int64),
        "pixel_values": torch.zeros(2, 3, 4, 4),
        "patch_mask": torch.tensor([[[1, 1], [1, 1]], [[1, 0], [0, 0]]], dtype=torch.bool),
        "labels": torch.tensor([0, 1]),
    }
    deltas: list[Tensor] = []

    def forward(given: Batch) -> Tensor:
        delta = given.get("image_delta", torch.zeros(()))
        deltas.append(delta)
        return (given["pixel_values"] + delta).flatten(1) @ weight

    for value in objective(recipe)(forward, batch, 1):
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
    last = deltas[-1]
    assert last.shape == batch["pixel_values"].shape
    assert last[0].all()
    assert last[1, :, :2, :2].all()
    assert torch.count_nonzero(last[1]) == 3 * 4


def test_one_step_without_divergence_is_plain_training() -> None:
    """One step has no perturbation yet; the divergence of a prediction from itself is flat."""
    recipe = replace(RECIPE, adversary_steps=1)
    runs = []
    for kind in (plain(TASK.loss), objective(recipe), objective(replace(recipe, adversary_kl=0.0))):
        with engine(recipe) as each:
            losses = [each.step(evenly(batches(step)), kind, 1e-2) for step in range(3)]
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
            losses.append(engine.step(evenly(batches(step)), objective(recipe), 1e-2))
        return losses

    with engine(recipe) as whole:
        advance(whole, 0, 2)
        weights, moments = whole.weights(), whole.moments()
        rest = advance(whole, 2, 4)
        final = whole.weights()
        module = whole.net.state_dict()
    assert pruned_nonzero(final, masks()) == pruned_nonzero(module, masks()) == 0
    with engine(recipe) as resumed:
        resumed.set_weights(weights)
        resumed.set_moments(moments, 2)
        assert advance(resumed, 2, 4) == rest
        assert kept_sha256(resumed.weights(), {}) == kept_sha256(final, {})
