"""Layer-wise adaptive rate scaling (LARS), You et al. 2017, "Large Batch Training of Convolutional
Networks", Algorithm 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainables.spec import Recipe


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose learning rate is scaled per weight by a trust ratio.

    With the weight w, its gradient g, the weight decay b and the trust coefficient e, an update is

        ratio = e * ||w|| / (||g|| + b * ||w||)
        v     = momentum * v + lr * ratio * (g + b * w)
        w     = w - v

    The ratio is 1 where the norm of w or of g is zero, such as for a layer that is pruned whole or
    starts at zero. Parameter groups with `decayed` False have neither weight decay nor a trust
    ratio. The norms are those of whole weights, so the parameters must not be flat partitions. A
    pruned weight adds nothing to the norms and stays zero.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "decayed": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        change = gradient.add(weight, alpha=group["weight_decay"])
        if group["decayed"]:
            change.mul_(_trust_ratio(weight, gradient, group))
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        velocity: Tensor = state["momentum_buffer"]
        velocity.mul_(group["momentum"]).add_(change, alpha=group["lr"])
        weight.sub_(velocity)


def _trust_ratio(weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the ratio as a tensor, because reading it would synchronize with the GPU."""
    norm, gradient_norm = weight.norm(), gradient.norm()
    ratio = group["trust_coefficient"] * norm / (gradient_norm + group["weight_decay"] * norm)
    return torch.where((norm > 0) & (gradient_norm > 0), ratio, 1.0)


def state_names(recipe: Recipe) -> tuple[str, ...]:
    return ("momentum_buffer",)


def build(groups: list[dict[str, Any]], recipe: Recipe) -> LARS:
    return LARS(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        trust_coefficient=recipe.trust_coefficient,
    )


def settings(recipe: Recipe, lr: float, update: int) -> dict[str, float]:
    return {"lr": lr, "weight_decay": recipe.weight_decay}
