from __future__ import annotations

import pytest

from trainables.optim.schedules import lr_at
from trainables.spec import Recipe


def test_lr_rises_linearly_and_falls_to_zero_at_the_last_update() -> None:
    recipe = Recipe(steps=10, warmup=0.4, lr=1.0)
    rates = [lr_at(recipe, step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0])


def test_lr_without_warmup_or_decay() -> None:
    recipe = Recipe(steps=5, warmup=0.0, decay="constant", lr=0.5)
    assert [lr_at(recipe, step) for step in range(5)] == [0.5] * 5


def test_a_single_step_uses_the_peak_rate() -> None:
    assert lr_at(Recipe(steps=1, warmup=0.1, lr=0.5), 0) == 0.5
