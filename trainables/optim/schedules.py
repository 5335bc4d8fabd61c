"""Learning-rate schedules, in pure Python."""

from __future__ import annotations

from trainables.spec import Recipe


def lr_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of the update after `step` completed steps, for 0 <= step < steps.

    Update n of a warm-up of w updates uses n / w of the peak. The rate then decays linearly to 0 at
    update number `steps`, as in UNITER's `warmup_linear`. A run of one step uses the peak.
    """
    update = step + 1
    warmup = round(recipe.steps * recipe.warmup)
    if update <= warmup:
        return recipe.lr * update / warmup
    if recipe.decay == "constant" or recipe.steps == 1:
        return recipe.lr
    return recipe.lr * (recipe.steps - update) / (recipe.steps - warmup)
