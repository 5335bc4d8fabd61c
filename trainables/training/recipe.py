"""What a recipe means, in pure Python: can it be trained, and the learning rate at each step."""

from __future__ import annotations

from trainables.errors import RecipeError
from trainables.spec import Recipe


def check(recipe: Recipe) -> None:
    """Raises RecipeError, naming the field, for a recipe that cannot be trained as written."""
    if recipe.precision == "bf16" and recipe.zero == 0:
        raise RecipeError(
            "recipe.zero = 0 is not allowed with precision bf16: DeepSpeed then takes one "
            "optimizer step too many; use 1 or more"
        )
    if recipe.compile and recipe.zero == 3:
        raise RecipeError(
            "recipe.compile is not allowed with zero = 3, whose weights come and go in mid-pass; "
            "use zero = 2 or less"
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


def undone_correction(recipe: Recipe, update: int) -> tuple[float, float]:
    """Factors on the learning rate and on eps that make torch's Adam, which always corrects the
    bias of its moments, take update number `update` (from 1) as the recipe means it.

    Without correction a step is lr * m / (sqrt(v) + eps); torch's is lr' / c1 * m / (sqrt(v / c2) +
    eps') with c = 1 - beta ** update. They agree, to the last few bits, for lr' = lr * c1 /
    sqrt(c2) and eps' = eps / sqrt(c2).
    """
    if recipe.bias_correction:
        return 1.0, 1.0
    root = float((1.0 - recipe.beta2**update) ** 0.5)
    return (1.0 - recipe.beta1**update) / root, 1.0 / root
