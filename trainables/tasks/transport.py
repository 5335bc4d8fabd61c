"""Optimal transport between words and regions: UNITER's word-region alignment (its section 3.2).

The inexact proximal point method for exact transport (IPOT; Xie et al. 2018): each iteration is one
Sinkhorn step on the plan of the one before, so that the plan tends to the optimum itself, not to a
smoothed one, whatever `BETA` is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

BETA, ITERATIONS = 0.5, 50
"""As published; the plan is near the optimum then, and its cost above it."""


def distance(text: Tensor, image: Tensor, text_mask: Tensor, image_mask: Tensor) -> Tensor:
    """(B,) cost of moving the words of each example onto its regions.

    `text` (B, T, H) and `image` (B, N, H) in float32, the masks (B, T) and (B, N) True at what
    counts, which weighs the same within a side. Gradients flow through the cost, not the plan.
    """
    cost = cosine_cost(text, image)
    plan = ipot(cost.detach(), text_mask, image_mask)
    return (cost * plan).sum(dim=(1, 2))


def cosine_cost(text: Tensor, image: Tensor) -> Tensor:
    """(B, T, N): 1 - cosine."""
    words, regions = (normalize(side, dim=-1, eps=1e-5) for side in (text, image))
    return 1 - words @ regions.transpose(1, 2)


@torch.no_grad()
def ipot(
    cost: Tensor, rows: Tensor, columns: Tensor, *, beta: float = BETA, steps: int = ITERATIONS
) -> Tensor:
    """(B, T, N) plan between the entries of `rows` (B, T) and `columns` (B, N) that are True.

    It sums to 1; a row to 1 / T and a column to 1 / N of those that count, the one exactly and the
    other in the limit; zero elsewhere.
    """
    both = rows[:, :, None] & columns[:, None, :]
    row_mass = (rows / rows.sum(dim=1, keepdim=True))[:, :, None].to(cost.dtype)
    column_mass = (columns / columns.sum(dim=1, keepdim=True))[:, None, :].to(cost.dtype)
    near = torch.exp(-cost / beta) * both
    plan = both.to(cost.dtype)
    row_scale = row_mass
    for _ in range(steps):
        kernel = near * plan
        column_scale = _over(column_mass, row_scale.transpose(1, 2) @ kernel)
        row_scale = _over(row_mass, kernel @ column_scale.transpose(1, 2))
        plan = row_scale * kernel * column_scale
    return plan


def _over(mass: Tensor, total: Tensor) -> Tensor:
    """Their quotient, and 0 in the padding, where both are 0."""
    return mass / total.where(mass > 0, 1.0)
