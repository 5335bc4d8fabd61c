"""Optimal transport between words and regions: UNITER's word-region alignment (its section 3.2).

It uses the inexact proximal point method for exact transport (IPOT; Xie et al. 2018). Each
iteration is one Sinkhorn step on the plan of the previous one, so the plan converges to the exact
optimum, not to a smoothed one, for any `BETA`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

BETA, ITERATIONS = 0.5, 50
"""As published. The plan is then close to the optimum; its cost is slightly higher."""


def distance(text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Tensor:
    """Return (B,) the cost of transporting the words of each example to its regions.

    `text` (B, T, H) and `image` (B, N, H) are float32. The masks (B, T) and (B, N) are True at
    words and regions; all words weigh the same, and so do all regions. Gradients flow through the
    cost, not through the plan.
    """
    cost = cosine_cost(text, image)
    plan = ipot(cost.detach(), text_mask, image_mask)
    return (cost * plan).sum(dim=(1, 2))


def cosine_cost(text: Tensor, image: Tensor) -> Tensor:
    """Return (B, T, N): 1 - cosine similarity."""
    words, regions = (normalize(side, dim=-1, eps=1e-5) for side in (text, image))
    return 1 - words @ regions.transpose(1, 2)


@torch.no_grad()
def ipot(
    cost: Tensor, rows: Tensor, columns: Tensor, *, beta: float = BETA, steps: int = ITERATIONS
) -> Tensor:
    """Return the transport plan (B, T, N) between the True entries of `rows` (B, T) and `columns`
    (B, N).

    With t True rows and n True columns in an example, its plan sums to 1. Each True row sums to
    1 / t exactly, each True column to 1 / n in the limit. The plan is zero elsewhere.
    """
    both = rows[:, :, None] & columns[:, None, :]
    row_mass = (rows / rows.sum(dim=1, keepdim=True))[:, :, None].to(cost.dtype)
    column_mass = (columns / columns.sum(dim=1, keepdim=True))[:, None, :].to(cost.dtype)
    gibbs = torch.exp(-cost / beta) * both
    plan = both.to(cost.dtype)
    row_scale = row_mass
    for _ in range(steps):
        kernel = gibbs * plan
        column_scale = _safe_divide(column_mass, row_scale.transpose(1, 2) @ kernel)
        row_scale = _safe_divide(row_mass, kernel @ column_scale.transpose(1, 2))
        plan = row_scale * kernel * column_scale
    return plan


def _safe_divide(mass: Tensor, total: Tensor) -> Tensor:
    """Return `mass / total`, and 0 in the padding, where both are 0."""
    return mass / total.where(mass > 0, 1.0)
