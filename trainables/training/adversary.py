"""Adversarial training as in VILLA (Gan et al. 2020, Algorithm 1 and equations 3 to 6).

Each batch takes K ascent steps, from delta = 0, on a perturbation delta of the word embeddings, of
the region features or pixels, or of both:

    loss_k = (task loss(delta) + alpha * symmetric KL(clean prediction, prediction(delta))) / K
    delta += lr * g / max(||g||_2, 1e-8)      per example, over all its axes; not after the last

Here g is the gradient of loss_k at delta, K is `adversary_steps`, alpha `adversary_kl` and lr
`adversary_lr` of the recipe.

The gradients of the weights from all K losses add up to one optimizer step ("free" adversarial
training). The clean batch has no loss of its own: the first step has delta = 0. `alternate`
perturbs text and image in turn in each of the K steps, each with its own delta, and divides the
losses by 2 K.

The gradient also reaches the weights through the clean prediction. The published code
backpropagates through the clean pass with each of the K losses. Here the losses leave their
gradients at the clean logits, and one pass backpropagates their sum: the same gradient for K + 1
backward passes instead of 2 K, and no graph is kept for a second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trainables.spec import Recipe
from trainables.tasks.base import Batch, Task

ForwardFn: TypeAlias = Callable[[Batch], Tensor]
TrainingObjective: TypeAlias = Callable[[ForwardFn, Batch, float], Iterator[Tensor]]
"""Yields the scalars of a micro-batch to backpropagate, one after another; they add up to its loss.

The third argument is the loss divisor, usually the number of micro-batches. The caller must
backpropagate each scalar before it requests the next one."""

_GROUPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "text": (("text_delta",),),
    "image": (("image_delta",),),
    "both": (("text_delta", "image_delta"),),
    "alternate": (("text_delta",), ("image_delta",)),
}
_MIN_NORM = 1e-8
"""Lower limit of a gradient's norm, which avoids a division by zero."""


def training_objective(task: Task, recipe: Recipe, hidden_size: int) -> TrainingObjective:
    """Return the objective of a micro-batch; `hidden_size` is that of the word embeddings."""
    if recipe.adversary == "none":
        return plain_objective(task.loss)

    def objective(forward: ForwardFn, batch: Batch, loss_divisor: float) -> Iterator[Tensor]:
        return _adversarial_losses(task, recipe, hidden_size, forward, batch, loss_divisor)

    return objective


def plain_objective(loss: Callable[[Tensor, Batch], Tensor]) -> TrainingObjective:
    """Return the objective of training without an adversary."""

    def objective(forward: ForwardFn, batch: Batch, loss_divisor: float) -> Iterator[Tensor]:
        yield loss(forward(batch), batch) / loss_divisor

    return objective


def _adversarial_losses(
    task: Task,
    recipe: Recipe,
    hidden_size: int,
    forward: ForwardFn,
    batch: Batch,
    loss_divisor: float,
) -> Iterator[Tensor]:
    # One forward pass per group and step: the inputs of a group are perturbed together.
    groups = [
        {name: _zero_delta(name, batch, hidden_size) for name in names}
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
            yield loss / (steps * len(groups) * loss_divisor)
            if step + 1 < steps:
                deltas.update({n: _ascent_step(n, d, batch, recipe) for n, d in deltas.items()})
    if clean is not None and leaf is not None and leaf.grad is not None:
        # A head may exclude regions that are padding by a logit of minus infinity.
        product = (clean.masked_fill(leaf.grad == 0, 0.0) * leaf.grad).sum()
        yield product - product.detach()  # the value is 0; only the gradient counts


def _zero_delta(name: str, batch: Batch, hidden_size: int) -> Tensor:
    if name == "text_delta":
        perturbed = batch["input_ids"]
        shape = torch.Size([*perturbed.shape, hidden_size])
    else:
        perturbed = batch["region_features" if "region_features" in batch else "pixel_values"]
        shape = perturbed.shape
    return torch.zeros(shape, device=perturbed.device, requires_grad=True)


def _ascent_step(name: str, delta: Tensor, batch: Batch, recipe: Recipe) -> Tensor:
    """Return `delta` after one step along its gradient. It stays zero at padding."""
    assert delta.grad is not None
    gradient = delta.grad
    mask = _valid_mask(name, batch)
    if mask is not None:
        gradient = gradient * mask
    moved = delta.detach() + recipe.adversary_lr * gradient / _norm(gradient).clamp(min=_MIN_NORM)
    if recipe.adversary_max_norm:
        scale = recipe.adversary_max_norm / _norm(moved).clamp(min=_MIN_NORM)
        moved = moved * scale.clamp(max=1.0)
    return moved.requires_grad_()


def _norm(value: Tensor) -> Tensor:
    """Return the L2 norm per example, in a shape that broadcasts against `value`."""
    norms: Tensor = torch.linalg.vector_norm(value.flatten(1), dim=1)
    return norms.view(-1, *(1,) * (value.dim() - 1))


def _valid_mask(name: str, batch: Mapping[str, Tensor]) -> Tensor | None:
    """Return 1 where the perturbed input is not padding and 0 where it is; None without padding."""
    if name == "text_delta":
        return batch["text_mask"][..., None]
    if "region_mask" in batch:
        return batch["region_mask"][..., None]
    if "patch_mask" in batch:
        size = batch["pixel_values"].shape[-2:]
        return interpolate(batch["patch_mask"][:, None].float(), size=size, mode="nearest")
    return None
