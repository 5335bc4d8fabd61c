"""What a recipe means, in pure Python: can it be trained, and the learning rate at each step."""

from __future__ import annotations

from trainables.errors import RecipeError
from trainables.spec import Recipe


def check(recipe: Recipe) -> None:
    """Raises RecipeError, naming the field, for a recipe that cannot be trained as written."""
    if recipe.precision == "bf16" and recipe.zero == 0:
        raise RecipeError(
            "recipe.zero = 0 is not allowed with precision bf16: DeepSpeed then takes one "
            "optimizer step too many; use 1 or 2"
        )
    if recipe.steps < 1:
        raise RecipeError(f"recipe.steps = {recipe.steps} is not allowed; use 1 or more")
    if recipe.accumulate < 1 or recipe.batch_size < 1 or recipe.batch_size % recipe.accumulate:
        raise RecipeError(
            f"recipe.accumulate = {recipe.accumulate} does not divide "
            f"batch_size = {recipe.batch_size}; use a divisor"
        )
    if not 0 <= recipe.warmup < 1:
        raise RecipeError(
            f"recipe.warmup = {recipe.warmup} is not allowed; use a share of the steps, "
            "from 0 to below 1"
        )


def lr_at(recipe: Recipe, step: int) -> float:
    """Learning rate of the update that turns step `step` into `step + 1`, for 0 <= step < steps.

    Of warm-up's w updates, number n uses n / w of the peak; the decay then falls linearly to 0 at
    update number `steps`, as in UNITER's `warmup_linear`. A run of one step uses the peak.
    """
    number = step + 1
    warmup = round(recipe.steps * recipe.warmup)
    if number <= warmup:
        return recipe.lr * number / warmup
    if recipe.decay == "constant" or recipe.steps == 1:
        return recipe.lr
    return recipe.lr * (recipe.steps - number) / (recipe.steps - warmup)
