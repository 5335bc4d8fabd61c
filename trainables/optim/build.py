"""The optimizer of a recipe: its parameter groups, its state, and its settings at each update."""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trainables.distributed.zero import optimizer_partitions
from trainables.errors import InvariantError, RecipeError
from trainables.optim import OPTIMIZERS
from trainables.spec import HEAD, Recipe

Groups: TypeAlias = Mapping[str, tuple[str, ...]]
"""Parameter group that a model names -> prefixes of the network's tensor names."""
_COUNT = "step"
"""The key under which torch's optimizers count their updates."""


def build_optimizer(
    weights: Mapping[str, Tensor], recipe: Recipe, groups: Groups
) -> torch.optim.Optimizer:
    """Return the optimizer of `weights`, by name, with the recipe's settings. `groups` are those
    that the model names.

    Raises RecipeError for a group with a factor that no weight is in.
    """
    optimizer: torch.optim.Optimizer = _module(recipe).build(
        _parameter_groups(weights, recipe, groups), recipe
    )
    return optimizer


def tensor_state_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the keys of the optimizer's state that are tensors of a weight's shape."""
    return tuple(name for name in _module(recipe).state_names(recipe) if name != _COUNT)


def init_state(optimizer: torch.optim.Optimizer, recipe: Recipe, zero_optimizer: Any) -> None:
    """Create the state that the optimizer would create at its first update, and let DeepSpeed find
    it.

    Without this, DeepSpeed looks for the state after the first parameter group has stepped and
    before the others have, and never finds theirs. torch's fused SGD also fails if a weight gets
    its first gradient later than others.
    """
    names = _module(recipe).state_names(recipe)
    for flat in optimizer_partitions(optimizer, zero_optimizer):
        optimizer.state[flat] = {
            name: torch.zeros((), device=flat.device)
            if name == _COUNT
            else torch.zeros_like(flat, requires_grad=False)
            for name in names
        }
    if hasattr(zero_optimizer, "_lazy_init_hp_params_optimizer_state"):  # at stages 1 and 2
        zero_optimizer._lazy_init_hp_params_optimizer_state()


def check_partitions(
    optimizer: torch.optim.Optimizer, weights: Iterable[Tensor], recipe: Recipe
) -> None:
    """Raise InvariantError if the optimizer needs whole weights and has flat partitions instead of
    `weights`.

    DeepSpeed replaces the parameters of any optimizer by its partitions. LARS would then silently
    compute one trust ratio for the whole network.
    """
    if not OPTIMIZERS[recipe.optimizer].whole_tensors:
        return
    own = {id(weight) for weight in weights}
    held = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    if not held or not own.issuperset(held):
        raise InvariantError(
            f"optimizer {recipe.optimizer}: it needs whole weights and was given flat partitions; "
            "this is a defect, please report it"
        )


def set_learning_rates(
    optimizer: torch.optim.Optimizer, recipe: Recipe, lr: float, update: int
) -> None:
    """Set the values of all parameter groups for update number `update`.

    `lr` is the schedule's rate. Update 1 is the one that starts with a state of zeros.
    """
    settings = _module(recipe).settings
    for group in optimizer.param_groups:
        group.update(settings(recipe, lr * group["lr_scale"], update))
        if not group["decayed"]:
            group["weight_decay"] = 0.0


def allowed_rates(recipe: Recipe, lr: float, update: int) -> set[float]:
    """Return the learning rates that parameter groups can have at update number `update`."""
    settings = _module(recipe).settings
    scales = (1.0, recipe.head_lr_scale, *dict(recipe.lr_scales).values())
    return {settings(recipe, lr * scale, update)["lr"] for scale in scales}


def counts_of(optimizer: torch.optim.Optimizer) -> dict[Tensor, int]:
    """Return how many updates the optimizer itself has counted, by weight or partition; empty for
    an optimizer that does not count.

    At ZeRO 0 an optimizer skips a weight without a gradient, such as the mask embedding in a task
    that masks nothing.
    """
    return {
        weight: int(state[_COUNT]) for weight, state in optimizer.state.items() if _COUNT in state
    }


def set_count(optimizer: torch.optim.Optimizer, weight: Tensor, count: int) -> None:
    """Set the number of updates of a weight or partition, if the optimizer counts them."""
    if _COUNT in optimizer.state[weight]:
        optimizer.state[weight][_COUNT].fill_(count)


def _module(recipe: Recipe) -> ModuleType:
    return importlib.import_module(OPTIMIZERS[recipe.optimizer].module)


def _parameter_groups(
    weights: Mapping[str, Tensor], recipe: Recipe, groups: Groups
) -> list[dict[str, Any]]:
    """Return the parameter groups: by head, group with a factor of its own and rest of the
    backbone, which differ in learning rate, and by whether weight decay applies.

    Raises RecipeError for a group with a factor that no weight is in.
    """
    scales = {"": 1.0, HEAD: recipe.head_lr_scale, **dict(recipe.lr_scales)}
    found: dict[tuple[str, bool], list[Tensor]] = defaultdict(list)
    for name, weight in weights.items():
        decayed = recipe.decay_vectors or weight.ndim > 1
        found[_scale_of(name, recipe, groups), decayed].append(weight)
    used = {scale for scale, _ in found}
    for group, factor in recipe.lr_scales:
        if group not in used:
            raise RecipeError(
                f"recipe.lr_scales: {group} = {factor} has no effect, because no weight is in the "
                f"group ({', '.join(groups[group])}); remove it, or correct the model's groups"
            )
    return [
        {"params": members, "lr_scale": scales[scale], "decayed": decayed}
        for (scale, decayed), members in found.items()
    ]


def _scale_of(name: str, recipe: Recipe, groups: Groups) -> str:
    """Return `HEAD`, the group with a factor that the weight is in, or an empty text. Of several
    matches, the longest prefix of its name counts."""
    prefixes = [(HEAD, HEAD), *((p, group) for group, _ in recipe.lr_scales for p in groups[group])]
    matches = [(len(prefix), scale) for prefix, scale in prefixes if name.startswith(prefix)]
    return max(matches, default=(0, ""))[1]
