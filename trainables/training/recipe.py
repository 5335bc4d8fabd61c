"""Check that a recipe can be trained, in pure Python. Planning makes the same checks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from trainables.errors import RecipeError, suggest
from trainables.optim import BUILTIN, OPTIMIZERS
from trainables.optim.schedules import SCHEDULES
from trainables.spec import Recipe

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Recipe)}


def check_recipe(recipe: Recipe, groups: Collection[str] = ()) -> None:
    """Raise RecipeError, which names the field, for a recipe that cannot be trained as written.

    `groups` are the names of the groups of weights that the model's entry lists.
    """
    _check_names(recipe)
    _check_groups(recipe, groups)
    _check_fields(recipe)
    if OPTIMIZERS[recipe.optimizer].whole_tensors:
        _check_whole_tensors(recipe)
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
    if not recipe.tokens and recipe.token_batches != _DEFAULTS["token_batches"]:
        raise RecipeError(
            f"recipe.token_batches = {recipe.token_batches} is not read with tokens = 0; remove "
            "it, or set tokens"
        )
    if not 0 <= recipe.warmup < 1:
        raise RecipeError(
            f"recipe.warmup = {recipe.warmup} is not allowed; use a share of the steps, "
            "from 0 to below 1"
        )
    OPTIMIZERS[recipe.optimizer].check(recipe)
    SCHEDULES[recipe.decay].check(recipe)


def check_workers(recipe: Recipe, what: str, workers: int, *, varies_parameters: bool) -> None:
    """Raise RecipeError if `what`, a task or a search, cannot be trained in so many processes at
    the recipe's ZeRO stage.

    If the processes use different weights in one step (`varies_parameters`), DeepSpeed adds
    gradients of different weights to each other at stages 1 and 2, without an error, and fails at
    stage 3.
    """
    if workers > 1 and recipe.zero > 0 and varies_parameters:
        raise RecipeError(
            f"recipe.zero = {recipe.zero} is not allowed for {what} with {workers} workers: "
            "its micro-batches use different weights, whose gradients DeepSpeed would mix; use "
            "zero = 0, or one worker"
        )


def changed_recipe(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return `recipe` with `changes`.

    If they change the optimizer or the schedule, the fields that only the old one reads fall back
    to their defaults: a recipe for AdamW can be the base of one for SGD. So does `token_batches` if
    they set `tokens` to 0. Raises RecipeError for an unknown optimizer or schedule.
    """
    changed = replace(recipe, **changes)
    _check_names(changed)
    unread = _fields_of_others(changed).keys() - _fields_of_others(recipe).keys()
    if not changed.tokens:
        unread |= {"token_batches"}
    unread -= changes.keys()
    return replace(changed, **{name: _DEFAULTS[name] for name in unread})


def _check_names(recipe: Recipe) -> None:
    for name, value, table in (
        ("optimizer", recipe.optimizer, OPTIMIZERS),
        ("decay", recipe.decay, SCHEDULES),
    ):
        if value not in table:
            raise RecipeError(f"recipe.{name} = {value!r} is not known; {suggest(value, table)}")


def _check_groups(recipe: Recipe, groups: Collection[str]) -> None:
    for group, factor in recipe.lr_scales:
        if group not in groups:
            raise RecipeError(
                f"recipe.lr_scales: the model has no group {group!r}; {suggest(group, groups)}"
                " (the task head has head_lr_scale)"
            )
        if not factor > 0:
            raise RecipeError(f"recipe.lr_scales: {group} = {factor}; use a factor above 0")


def _check_fields(recipe: Recipe) -> None:
    for name, readers in _fields_of_others(recipe).items():
        if getattr(recipe, name) != _DEFAULTS[name]:
            raise RecipeError(
                f"recipe.{name} = {getattr(recipe, name)} is not read with optimizer "
                f"{recipe.optimizer} and decay {recipe.decay}, only with {' or '.join(readers)}; "
                "remove it"
            )


def _fields_of_others(recipe: Recipe) -> dict[str, list[str]]:
    """Return the fields that neither the recipe's optimizer nor its schedule reads, and which do
    read them."""
    read = {*OPTIMIZERS[recipe.optimizer].fields, *SCHEDULES[recipe.decay].fields}
    found: dict[str, list[str]] = {}
    for name, reader in _readers():
        if name not in read:
            found.setdefault(name, []).append(reader)
    return found


def _readers() -> Iterator[tuple[str, str]]:
    """Yield the fields that not all optimizers or schedules read, each with one that does. Those
    from outside can read the same fields, and are not loaded here: they could be broken."""
    for table in (BUILTIN, SCHEDULES):
        for name, entry in table.items():
            yield from ((field, name) for field in entry.fields)


def _check_whole_tensors(recipe: Recipe) -> None:
    if recipe.zero:
        raise RecipeError(
            f"recipe.zero = {recipe.zero} is not allowed with optimizer {recipe.optimizer}, which "
            "needs whole weights: DeepSpeed flattens them from stage 1 on; use 0"
        )
