"""Learning-rate schedules, in pure Python.

To add one, write a function and a line in `SCHEDULES`. The function maps the recipe, the number of
an update after the warm-up, and the number of updates of the warm-up to a learning rate.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainables.errors import RecipeError
from trainables.optim import no_check
from trainables.spec import Recipe


def lr_at(recipe: Recipe, step: int) -> float:
    """Return the learning rate of the update after `step` completed steps, for 0 <= step < steps.

    Update n of a warm-up of w updates uses n / w of the peak. The rate then follows the recipe's
    `decay`. A decay to an end ends at update number `steps`, as in UNITER's `warmup_linear`, and a
    run of one step uses the peak.
    """
    update = step + 1
    warmup = round(recipe.steps * recipe.warmup)
    if update <= warmup:
        return recipe.lr * update / warmup
    return SCHEDULES[recipe.decay].rate(recipe, update, warmup)


def _constant(recipe: Recipe, update: int, warmup: int) -> float:
    return recipe.lr


def _linear(recipe: Recipe, update: int, warmup: int) -> float:
    if recipe.steps == 1:
        return recipe.lr
    return recipe.lr * (recipe.steps - update) / (recipe.steps - warmup)


def _cosine(recipe: Recipe, update: int, warmup: int) -> float:
    """`torch.optim.lr_scheduler.CosineAnnealingLR` with `eta_min = lr_end`, one step ahead: the
    first update after the warm-up already uses its rate after one step."""
    share = (1.0 + math.cos(math.pi * (1.0 - _remaining(recipe, update, warmup)))) / 2.0
    return recipe.lr_end + (recipe.lr - recipe.lr_end) * share


def _polynomial(recipe: Recipe, update: int, warmup: int) -> float:
    """`get_polynomial_decay_schedule_with_warmup` of transformers, one step ahead as
    `_cosine`."""
    share = float(_remaining(recipe, update, warmup) ** recipe.power)
    return recipe.lr_end + (recipe.lr - recipe.lr_end) * share


def _multi_step(recipe: Recipe, update: int, warmup: int) -> float:
    """`torch.optim.lr_scheduler.MultiStepLR`, stepped once per optimizer step: a milestone counts
    completed steps."""
    return float(recipe.lr * recipe.gamma ** bisect.bisect_right(recipe.milestones, update - 1))


def _remaining(recipe: Recipe, update: int, warmup: int) -> float:
    """Return the share of the decay that is still to come, from 1 to 0 at the last update."""
    return 1.0 if recipe.steps == 1 else (recipe.steps - update) / (recipe.steps - warmup)


def _check_lr_end(recipe: Recipe) -> None:
    if recipe.lr_end > recipe.lr:
        raise RecipeError(
            f"recipe.lr_end = {recipe.lr_end} is above lr = {recipe.lr}; use lr or less"
        )


def _check_milestones(recipe: Recipe) -> None:
    ascending = sorted(set(recipe.milestones))
    if [*recipe.milestones] != ascending or not ascending or ascending[-1] >= recipe.steps:
        raise RecipeError(
            f"recipe.milestones = {[*recipe.milestones]} is not allowed with decay multi_step; use "
            f"one or more numbers below steps = {recipe.steps}, ascending"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A learning rate after the warm-up."""

    rate: Callable[[Recipe, int, int], float]
    fields: tuple[str, ...] = ()
    """The fields of `Recipe` that it reads and others may not."""
    check: Callable[[Recipe], None] = no_check
    """Raises RecipeError for values that the schedule does not allow."""


SCHEDULES: Mapping[str, Schedule] = {
    "linear": Schedule(rate=_linear),
    "constant": Schedule(rate=_constant),
    "cosine": Schedule(rate=_cosine, fields=("lr_end",), check=_check_lr_end),
    "multi_step": Schedule(
        rate=_multi_step, fields=("milestones", "gamma"), check=_check_milestones
    ),
    "polynomial": Schedule(rate=_polynomial, fields=("lr_end", "power"), check=_check_lr_end),
}
"""Values of `Recipe.decay`."""
