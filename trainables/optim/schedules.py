"""Learning-rate schedules, in pure Python."""

from __future__ import annotations

from trainables.spec import Recipe


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
