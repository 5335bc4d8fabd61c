"""AdamW as recipes specify it: its parameter groups, and its settings at each update."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from trainables.distributed.zero import optimizer_partitions
from trainables.spec import HEAD, Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_adamw(net: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with the recipe's settings and parameter groups."""
    return torch.optim.AdamW(
        _groups(net, recipe),
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        # One pass over the weights instead of the plain loop's dozen. On CPU the loop's torch.sqrt
        # is also 8 times slower if 70 % of its input is zero, like a masked network's moments.
        fused=True,
    )


def init_moments(optimizer: torch.optim.AdamW, zero_optimizer: Any) -> None:
    """Create the state that Adam would create at its first step, and let DeepSpeed find it.

    Without this, DeepSpeed looks for the state after the first parameter group has stepped and
    before the others have, and never finds theirs.
    """
    for flat in optimizer_partitions(optimizer, zero_optimizer):
        optimizer.state[flat] = {
            "step": torch.zeros((), device=flat.device),
            **{kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS},
        }
    if hasattr(zero_optimizer, "_lazy_init_hp_params_optimizer_state"):  # at stages 1 and 2
        zero_optimizer._lazy_init_hp_params_optimizer_state()


def set_learning_rates(
    optimizer: torch.optim.AdamW, recipe: Recipe, lr: float, update: int
) -> None:
    """Set the learning rate, eps and weight decay of update number `update`.

    `lr` is the schedule's rate. Update 1 is the one that starts with zero moments.
    """
    lr_factor, eps_factor = correction_factors(recipe, update)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"] * lr_factor
        group["eps"] = recipe.eps * eps_factor
        # AdamW decays by lr * weight_decay.
        group["weight_decay"] = recipe.weight_decay / lr_factor if group["decayed"] else 0.0


def count_updates(optimizer: torch.optim.AdamW) -> int:
    """Return the number of updates that Adam itself has counted: the maximum over the weights.

    At ZeRO 0 Adam skips a weight without a gradient, such as the mask embedding in a task that
    masks nothing.
    """
    return max(int(state["step"]) for state in optimizer.state.values())


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Return up to four parameter groups: by backbone and head, which differ in learning rate, and
    by whether weight decay applies."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, weight in net.named_parameters():
        decayed = recipe.decay_vectors or weight.ndim > 1
        groups[name.startswith(HEAD), decayed].append(weight)
    return [
        {
            "params": weights,
            "lr_scale": recipe.head_lr_scale if head else 1.0,
            "decayed": decayed,
        }
        for (head, decayed), weights in groups.items()
    ]


def correction_factors(recipe: Recipe, update: int) -> tuple[float, float]:
    """Return factors on the learning rate and on eps for update number `update` (from 1).

    torch's Adam always corrects the bias of its moments; the factors undo that if the recipe asks
    for no correction. Without correction an update is lr * m / (sqrt(v) + eps). torch's is
    lr' / c1 * m / (sqrt(v / c2) + eps') with c = 1 - beta ** update. The two agree, up to the last
    few bits, for lr' = lr * c1 / sqrt(c2) and eps' = eps / sqrt(c2).
    """
    if recipe.bias_correction:
        return 1.0, 1.0
    root = float((1.0 - recipe.beta2**update) ** 0.5)
    return (1.0 - recipe.beta1**update) / root, 1.0 / root
