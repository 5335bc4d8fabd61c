"""Check that a recipe can be trained, in pure Python."""

from __future__ import annotations

from trainables.errors import RecipeError
from trainables.spec import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raise RecipeError, which names the field, for a recipe that cannot be trained as written."""
    if recipe.precision == "bf16" and recipe.zero == 0:
        raise RecipeError(
            "recipe.zero = 0 is not allowed with precision bf16: DeepSpeed then takes one "
            "optimizer step too many; use 1 or more"
        )
    if recipe.compile and recipe.zero == 3:
        raise RecipeError(
            "recipe.compile is not allowed with zero = 3, where weights are gathered and released "
            "during a pass; use zero = 2 or less"
        )
    if recipe.steps < 1:
        raise RecipeError(f"recipe.steps = {recipe.steps} is not allowed; use 1 or more")
    if recipe.accumulate < 1 or recipe.batch_size < 1:
        raise RecipeError(
            f"recipe.accumulate = {recipe.accumulate} and batch_size = {recipe.batch_size}: "
            "use 1 or more of both"
        )
    if not recipe.tokens and recipe.batch_size % recipe.accumulate:
        raise RecipeError(
            f"recipe.accumulate = {recipe.accumulate} does not divide "
            f"batch_size = {recipe.batch_size}; use a divisor"
        )
    if not 0 <= recipe.warmup < 1:
        raise RecipeError(
            f"recipe.warmup = {recipe.warmup} is not allowed; use a share of the steps, "
            "from 0 to below 1"
        )
