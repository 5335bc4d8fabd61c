from __future__ import annotations

from dataclasses import replace

import pytest

from trainables.errors import RecipeError
from trainables.spec import Recipe
from trainables.training.recipe import check, lr_at


def test_lr_rises_linearly_and_falls_to_zero_at_the_last_update() -> None:
    recipe = Recipe(steps=10, warmup=0.4, lr=1.0)
    rates = [lr_at(recipe, step) for step in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0])


def test_lr_without_warmup_or_decay() -> None:
    recipe = Recipe(steps=5, warmup=0.0, decay="constant", lr=0.5)
    assert [lr_at(recipe, step) for step in range(5)] == [0.5] * 5


def test_a_single_step_learns() -> None:
    assert lr_at(Recipe(steps=1, warmup=0.1, lr=0.5), 0) == 0.5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"precision": "bf16", "zero": 0}, "recipe.zero"),
        ({"batch_size": 10, "accumulate": 3}, "recipe.accumulate"),
        ({"accumulate": 0}, "recipe.accumulate"),
        ({"warmup": 1.0}, "recipe.warmup"),
        ({"steps": 0}, "recipe.steps"),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused_by_name(
    change: dict[str, object], field: str
) -> None:
    check(Recipe())
    with pytest.raises(RecipeError, match=field):
        check(replace(Recipe(), **change))  # type: ignore[arg-type]
