"""The contract of optimizers."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from trainables.optim import OPTIMIZERS
from trainables.spec import Recipe
from trainables.training.recipe import check_recipe

_SHAPES = ((6, 4), (3, 2, 3, 3), (5,))
_UPDATES = 4


def check_optimizer_contract(name: str, recipe: Recipe | None = None) -> None:
    """Check an optimizer of `OPTIMIZERS`, with a recipe that uses it (by default its defaults).

    The settings of an update contain its learning rate. Updates move the weights, but no weight
    whose value, gradient and state are zero, weight decay included. The documented state is all
    that a later update depends on. On a flat tensor of all weights the updates are the same, unless
    the entry says that whole tensors are needed.
    """
    recipe = recipe or Recipe(optimizer=name, steps=10, lr=0.01)
    assert recipe.optimizer == name, f"the recipe's optimizer is {recipe.optimizer}"
    check_recipe(recipe, {})
    module = import_module(OPTIMIZERS[name].module)
    assert "lr" in module.settings(recipe, recipe.lr, 1), (
        "`settings` lacks `lr`, which a run checks"
    )
    weights, gradients = _weights(), [_gradients(update) for update in range(_UPDATES)]
    pruned = [torch.zeros(shape, dtype=torch.bool) for shape in _SHAPES]
    for number, mask in enumerate(pruned):
        mask.view(-1)[::3] = True
        for values in (weights, *gradients):
            values[number][mask] = 0

    trained = _run(module, recipe, weights, gradients)
    for number, (before, after) in enumerate(zip(weights, trained.weights, strict=True)):
        assert not torch.equal(before, after), f"weight {number} does not move"
        off = after[pruned[number]]
        assert not bool(off.any()), f"pruned entries of weight {number} move: {off}"
    for key in module.state_names(recipe):
        for number, state in enumerate(trained.state):
            assert key in state, f"`state_names` has {key!r}, the optimizer's state has not"
            if key != "step":
                assert not bool(state[key][pruned[number]].any()), f"{key} of a pruned weight"

    half = _run(module, recipe, weights, gradients[: _UPDATES // 2])
    resumed = _run(module, recipe, half.weights, gradients, first=_UPDATES // 2, state=half.state)
    assert _equal(resumed.weights, trained.weights), (
        "a resumed run differs: `state_names` lacks something that an update depends on"
    )
    if not OPTIMIZERS[name].whole_tensors:
        flat = [torch.cat([each.view(-1) for each in step]) for step in (weights, *gradients)]
        one = _run(module, recipe, flat[:1], [[each] for each in flat[1:]])
        expected = torch.cat([each.view(-1) for each in trained.weights])
        assert torch.allclose(one.weights[0], expected, rtol=1e-6, atol=1e-8), (
            "the update of a flat tensor differs: set `whole_tensors` in the entry"
        )


class _Trained:
    def __init__(self, weights: list[Tensor], state: list[dict[str, Tensor]]) -> None:
        self.weights, self.state = weights, state


def _run(
    module: ModuleType,
    recipe: Recipe,
    weights: list[Tensor],
    gradients: list[list[Tensor]],
    first: int = 0,
    state: list[dict[str, Tensor]] | None = None,
) -> _Trained:
    """Train from copies of `weights`, by the updates after the `first` ones."""
    parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
    groups: list[dict[str, Any]] = [{"params": parameters, "decayed": True}]
    optimizer: torch.optim.Optimizer = module.build(groups, recipe)
    for number, parameter in enumerate(parameters):
        optimizer.state[parameter] = {
            key: (
                state[number][key].clone()
                if state
                else torch.zeros(() if key == "step" else parameter.shape)
            )
            for key in module.state_names(recipe)
        }
    for update in range(first, len(gradients)):
        for group in optimizer.param_groups:
            group.update(module.settings(recipe, recipe.lr, update + 1))
        for parameter, gradient in zip(parameters, gradients[update], strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    names = module.state_names(recipe)
    return _Trained(
        [parameter.detach().clone() for parameter in parameters],
        [{key: optimizer.state[each][key].clone() for key in names} for each in parameters],
    )


def _weights() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) for shape in _SHAPES]


def _gradients(update: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1 + update)
    return [torch.randn(shape, generator=draw) for shape in _SHAPES]


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
