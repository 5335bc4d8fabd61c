from __future__ import annotations

from dataclasses import replace

import pytest

from trainables.errors import RecipeError
from trainables.spec import Recipe
from trainables.training.recipe import check_recipe


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
def test_a_recipe_that_cannot_be_trained_is_refused_with_the_field(
    change: dict[str, object], field: str
) -> None:
    check_recipe(Recipe())
    with pytest.raises(RecipeError, match=field):
        check_recipe(replace(Recipe(), **change))  # type: ignore[arg-type]
