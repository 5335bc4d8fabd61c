"""Adversarial training in VILLA's form (Gan et al. 2020, Algorithm 1 and equations 3 to 6).

One batch takes K ascent steps on a perturbation delta of the word embeddings, of what the model
sees of the image, or of both, from delta = 0:

    loss_k = (task loss(delta) + alpha * symmetric KL(clean prediction, prediction(delta))) / K
    delta += lr * g / max(||g||_2, 1e-8)      per example, over all its axes; none after the last

The weights' gradients of all K losses add up ("free" adversarial training) to one optimizer step.
There is no loss of the clean batch beside them: the first step has delta = 0. `alternate` perturbs
text and image in turn in each of the K steps, each on a delta of its own, with loss / (2 K).

The gradient reaches the weights through the clean prediction too. The published code goes back
through the clean pass with each of the K losses; here the losses leave their gradients at the clean
logits, and one pass takes their sum back: the same gradient for K + 1 backward passes, not 2 K, and
no graph is kept for a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trainables.spec import Recipe
from trainables.tasks.base import Batch, Task

Forward: TypeAlias = Callable[[Batch], Tensor]
Objective: TypeAlias = Callable[[Forward, Batch, float], Iterator[Tensor]]
"""Of a micro-batch, and what its loss is divided by, their number as a rule: yields what is to be
differentiated, one after another; whoever asks for the next has taken the gradients of the last.
The values of all add up to the loss."""

_GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "text": (("text_delta",),),
    "image": (("image_delta",),),
    "both": (("text_delta", "image_delta"),),
    "alternate": (("text_delta",), ("image_delta",)),
}
_TINY = 1e-8
"""Below this norm a gradient is taken as it is; it guards against a division by zero."""


def objective_of(task: Task, recipe: Recipe, hidden_size: int) -> Objective:
    """The objective of a micro-batch; `hidden_size` is that of the word embeddings."""
    if recipe.adversary == "none":
        return plain(task.loss)

    def perturbed(forward: Forward, batch: Batch, parts: float) -> Iterator[Tensor]:
        return _perturbed(task, recipe, hidden_size, forward, batch, parts)

    return perturbed


def plain(loss: Callable[[Tensor, Batch], Tensor]) -> Objective:
    """The loss of the batch as it is."""

    def once(forward: Forward, batch: Batch, parts: float) -> Iterator[Tensor]:
        yield loss(forward(batch), batch) / parts

    return once


def _perturbed(
    task: Task, recipe: Recipe, hidden_size: int, forward: Forward, batch: Batch, parts: float
) -> Iterator[Tensor]:
    # One forward pass per group and step; a group is perturbed together.
    groups = [
        {name: _zeros(name, batch, hidden_size) for name in names}
        for names in _GROUPS[recipe.adversary]
    ]
    steps = recipe.adversary_steps
    clean = leaf = None
    if recipe.adversary_kl:
        clean = forward(batch)
        leaf = clean.detach().requires_grad_()
    for step in range(steps):
        for deltas in groups:
            logits = forward({**batch, **deltas})
            loss = task.loss(logits, batch)
            if leaf is not None:
                divergence = task.divergence(leaf, logits, batch)
                loss = loss + recipe.adversary_kl * divergence
            yield loss / (steps * len(groups) * parts)
            if step + 1 < steps:
                deltas.update({n: _ascended(n, d, batch, recipe) for n, d in deltas.items()})
    if clean is not None and leaf is not None and leaf.grad is not None:
        # A head may leave out regions that are padding by a logit of minus infinity.
        carried = (clean.masked_fill(leaf.grad == 0, 0.0) * leaf.grad).sum()
        yield carried - carried.detach()  # only its gradient counts: the value is 0


def _zeros(name: str, batch: Batch, hidden_size: int) -> Tensor:
    words = batch["input_ids"]
    if name == "text_delta":
        shape = torch.Size([*words.shape, hidden_size])
    else:
        shape = batch["region_features" if "region_features" in batch else "pixel_values"].shape
    return torch.zeros(shape, device=words.device, requires_grad=True)


def _ascended(name: str, delta: Tensor, batch: Batch, recipe: Recipe) -> Tensor:
    """`delta` after one step along its gradient; padding stays at zero."""
    assert delta.grad is not None
    gradient = delta.grad
    real = _real(name, batch)
    if real is not None:
        gradient = gradient * real
    grown = delta.detach() + recipe.adversary_lr * gradient / _norm(gradient).clamp(min=_TINY)
    if recipe.adversary_max_norm:
        grown = grown * (recipe.adversary_max_norm / _norm(grown).clamp(min=_TINY)).clamp(max=1.0)
    return grown.requires_grad_()


def _norm(value: Tensor) -> Tensor:
    """l2 per example, shaped to divide it."""
    norms: Tensor = torch.linalg.vector_norm(value.flatten(1), dim=1)
    return norms.view(-1, *(1,) * (value.dim() - 1))


def _real(name: str, batch: Mapping[str, Tensor]) -> Tensor | None:
    """1 where the perturbed input is no padding, 0 where it is; None where nothing is padded."""
    if name == "text_delta":
        return batch["text_mask"][..., None]
    if "region_mask" in batch:
        return batch["region_mask"][..., None]
    if "patch_mask" in batch:
        size = batch["pixel_values"].shape[-2:]
        return interpolate(batch["patch_mask"][:, None].float(), size=size, mode="nearest")
    return None
