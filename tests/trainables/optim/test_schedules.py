from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler
from transformers import optimization

from trainables.optim.schedules import SCHEDULES, lr_at
from trainables.spec import Recipe

STEPS, WARMUP, LR = 40, 8, 0.3
RECIPE = Recipe(steps=STEPS, warmup=WARMUP / STEPS, lr=LR)


def rates_of(recipe: Recipe) -> list[float]:
    return [lr_at(recipe, step) for step in range(recipe.steps)]


def scheduled(make: Any, *, lr: float = LR, shift: int = 0, **options: Any) -> list[float]:
    """Return the rates of a scheduler of torch or transformers after `shift` of its steps. Those of
    transformers and the annealing ones begin one step before the first update."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = make(optimizer, **options)
    rates = []
    for _ in range(STEPS + shift):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates[shift:]


@pytest.mark.parametrize(
    ("changes", "make", "options"),
    [
        ({}, optimization.get_linear_schedule_with_warmup, {}),
        ({"decay": "cosine"}, optimization.get_cosine_schedule_with_warmup, {}),
        (
            {"decay": "polynomial", "power": 2.0, "lr_end": 0.01},
            optimization.get_polynomial_decay_schedule_with_warmup,
            {"lr_end": 0.01, "power": 2.0},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_schedules_with_warmup_equal_those_of_transformers(
    changes: dict[str, Any], make: Any, options: dict[str, Any]
) -> None:
    expected = scheduled(
        make, shift=1, num_warmup_steps=WARMUP, num_training_steps=STEPS, **options
    )
    assert rates_of(replace(RECIPE, **changes)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("changes", "make", "options", "shift"),
    [
        ({"decay": "constant"}, lr_scheduler.ConstantLR, {"factor": 1.0}, 0),
        (
            {"decay": "cosine", "lr_end": 0.02},
            lr_scheduler.CosineAnnealingLR,
            {"T_max": STEPS, "eta_min": 0.02},
            1,
        ),
        (
            {"decay": "polynomial", "power": 0.9},
            lr_scheduler.PolynomialLR,
            {"total_iters": STEPS, "power": 0.9},
            1,
        ),
        (
            {"decay": "multi_step", "milestones": (7, 20), "gamma": 0.2},
            lr_scheduler.MultiStepLR,
            {"milestones": [7, 20], "gamma": 0.2},
            0,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_schedules_without_warmup_equal_those_of_torch(
    changes: dict[str, Any], make: Any, options: dict[str, Any], shift: int
) -> None:
    expected = scheduled(make, shift=shift, **options)
    recipe = replace(RECIPE, warmup=0.0, **changes)
    assert rates_of(recipe) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("decay", SCHEDULES)
def test_every_schedule_warms_up_and_is_finite(decay: str) -> None:
    recipe = replace(RECIPE, decay=decay, milestones=(20,))
    assert rates_of(recipe)[:WARMUP] == [LR * n / WARMUP for n in range(1, WARMUP + 1)]
    assert all(0 <= rate <= LR for rate in rates_of(recipe))
    for steps, warmup in ((1, 0.0), (2, 0.9), (3, 0.0)):
        assert all(map(math.isfinite, rates_of(replace(recipe, steps=steps, warmup=warmup))))


def test_lr_rises_linearly_and_falls_to_zero_at_the_last_update() -> None:
    recipe = Recipe(steps=10, warmup=0.4, lr=1.0)
    rates = [lr_at(recipe, step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0])


def test_lr_without_warmup_or_decay() -> None:
    recipe = Recipe(steps=5, warmup=0.0, decay="constant", lr=0.5)
    assert [lr_at(recipe, step) for step in range(5)] == [0.5] * 5


def test_a_single_step_uses_the_peak_rate() -> None:
    assert lr_at(Recipe(steps=1, warmup=0.1, lr=0.5), 0) == 0.5
