from __future__ import annotations

from dataclasses import replace

import pytest

from trainables.errors import RecipeError
from trainables.spec import Recipe
from trainables.training.recipe import check


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
