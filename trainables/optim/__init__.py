"""Optimizers by name, and learning-rate schedules. This module imports nothing heavy, because
planning reads it too.

To add an optimizer, write `trainables/optim/NAME.py` with

    state_names(recipe: Recipe) -> tuple[str, ...]
    build(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer
    settings(recipe: Recipe, lr: float, update: int) -> dict[str, float]

and add an entry to `OPTIMIZERS`. `state_names` are the keys of the optimizer's state per weight.
Each is a tensor of the weight's shape that is zero before the first update. The key `step`, which
only some optimizers have, is a scalar: their own count of updates. `build` returns the optimizer
over the parameter groups `groups`. Besides `params`, a group has `decayed`: whether weight decay
applies to it. `settings` are the values of a group (`lr`, `weight_decay`, ...) at update number
`update`, which is 1 where the state is zero; `lr` is the schedule's learning rate times the group's
factor. A group that is not `decayed` gets `weight_decay` 0.

At ZeRO 0 the optimizer runs on the weights themselves, and at bf16 on their float32 masters
(`masters.py`). From stage 1 on DeepSpeed runs it on flat partitions: one tensor for all weights of
a group, and in each process another part of it. An update must therefore work element by element,
unless the entry says `whole_tensors`. It must skip weights without a gradient.

A pruned weight stays zero under an optimizer that moves no weight whose value, gradient and state
are zero, which includes its weight decay.

A weight that no micro-batch of a step has used has no gradient at ZeRO 0. It is skipped, as in
torch. From stage 1 on its gradient is zero, so that weight decay and momentum move it.

The package may import `distributed`, `registry` and the modules `spec`, `errors` and `seeds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainables.errors import RecipeError
from trainables.registry import Registry
from trainables.spec import Recipe


def no_check(recipe: Recipe) -> None:
    """Accept any recipe."""


def _check_nesterov(recipe: Recipe) -> None:
    if recipe.nesterov and not recipe.momentum:
        raise RecipeError("recipe.nesterov needs a momentum above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerEntry:
    """What planning has to know of an optimizer."""

    module: str
    fields: tuple[str, ...] = ()
    """The fields of `Recipe` that it reads and others may not: a recipe that sets a field of
    another optimizer only is refused."""
    whole_tensors: bool = False
    """Whether an update needs each weight as a whole. Then it is available at ZeRO 0 only."""
    check: Callable[[Recipe], None] = no_check
    """Raises RecipeError for values that the optimizer does not allow."""


BUILTIN: Mapping[str, OptimizerEntry] = {
    "adamw": OptimizerEntry(
        module="trainables.optim.adamw", fields=("beta1", "beta2", "eps", "bias_correction")
    ),
    "sgd": OptimizerEntry(
        module="trainables.optim.sgd", fields=("momentum", "nesterov"), check=_check_nesterov
    ),
    "lars": OptimizerEntry(
        module="trainables.optim.lars",
        fields=("momentum", "trust_coefficient"),
        whole_tensors=True,
    ),
}

OPTIMIZERS: Registry[OptimizerEntry] = Registry(
    OptimizerEntry, group="sweepstakes.optimizers", attribute="OPTIMIZER", builtin=BUILTIN
)
