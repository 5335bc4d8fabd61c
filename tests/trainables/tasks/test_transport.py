"""Optimal transport compared with an exact solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.nn.functional import cosine_similarity

from trainables.tasks import transport


def exact(cost: Tensor) -> float:
    """Return the cost of the optimal plan between uniform masses, by linear programming."""
    rows, columns = cost.shape
    marginals = np.zeros((rows + columns, rows * columns))
    for row in range(rows):
        marginals[row, row * columns : (row + 1) * columns] = 1
    for column in range(columns):
        marginals[rows + column, column::columns] = 1
    mass = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    solution = linprog(cost.double().flatten().numpy(), A_eq=marginals, b_eq=mass)
    assert solution.success
    return float(solution.fun)


def draw(seed: int, words: int = 7, regions: int = 5) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(1, words, 16, generator=rng),
        torch.randn(1, regions, 16, generator=rng),
    )


def full_mask(side: Tensor) -> Tensor:
    return torch.ones(side.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("seed", range(4))
def test_ipot_converges_to_the_exact_optimum(seed: int) -> None:
    text, image = draw(seed)
    cost = transport.cosine_cost(text, image)
    best = exact(cost[0])
    costs = {
        steps: (cost * transport.ipot(cost, full_mask(text), full_mask(image), steps=steps))
        .sum()
        .item()
        for steps in (10, 50, 2000)
    }
    assert costs[10] > costs[50] > best - 1e-3
    assert costs[50] == pytest.approx(best, rel=0.02)
    assert costs[2000] == pytest.approx(best, rel=1e-3)


def test_the_plan_has_uniform_marginals() -> None:
    text, image = draw(0)
    plan = transport.ipot(transport.cosine_cost(text, image), full_mask(text), full_mask(image))
    torch.testing.assert_close(plan.sum(dim=2), torch.full((1, 7), 1 / 7))
    torch.testing.assert_close(plan.sum(dim=1), torch.full((1, 5), 1 / 5), rtol=0.05, atol=0.01)
    assert (plan >= 0).all()


def test_cost_is_one_minus_the_cosine() -> None:
    text, image = draw(1)
    cost = transport.cosine_cost(text, image)
    expected = 1 - cosine_similarity(text[0, :, None], image[0, None], dim=-1)
    torch.testing.assert_close(cost[0], expected)


def test_padding_is_ignored() -> None:
    text, image = draw(2)
    alone = transport.distance(text, image, full_mask(text), full_mask(image))
    padded_text = torch.cat([text, torch.randn(1, 3, 16)], dim=1)
    padded_image = torch.cat([image, torch.zeros(1, 2, 16)], dim=1)
    masks = torch.arange(10)[None] < 7, torch.arange(7)[None] < 5
    torch.testing.assert_close(transport.distance(padded_text, padded_image, *masks), alone)
    plan = transport.ipot(transport.cosine_cost(padded_text, padded_image), *masks)
    assert not plan[:, 7:].any()
    assert not plan[:, :, 5:].any()


def test_gradients_flow_through_the_cost_and_not_the_plan() -> None:
    text, image = draw(3)
    text.requires_grad_()
    masks = full_mask(text), full_mask(image)
    transport.distance(text, image, *masks).sum().backward()
    plan = transport.ipot(transport.cosine_cost(text, image).detach(), *masks)
    expected = torch.autograd.grad((transport.cosine_cost(text, image) * plan).sum(), text)[0]
    assert text.grad is not None
    torch.testing.assert_close(text.grad, expected)
