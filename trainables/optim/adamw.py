"""AdamW as recipes mean it: its groups of parameters, and its settings at each update."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from trainables.distributed.zero import partitions
from trainables.spec import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw(net: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        _groups(net, recipe),
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        # One pass over the weights where the plain loop takes a dozen; and that loop's torch.sqrt
        # is 8 times slower on CPU when 70 % are zeros, as a masked network's moments are.
        fused=True,
    )


def begin_moments(optimizer: torch.optim.AdamW, zero: Any) -> None:
    """Gives Adam the state it would make at its first step, and DeepSpeed the way to it.

    DeepSpeed would look for it when the first of our parameter groups has stepped and the others
    have not, and never find theirs.
    """
    for flat in partitions(optimizer, zero):
        optimizer.state[flat] = {
            "step": torch.zeros((), device=flat.device),
            **{kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS},
        }
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # at stages 1 and 2
        zero._lazy_init_hp_params_optimizer_state()


def set_rates(optimizer: torch.optim.AdamW, recipe: Recipe, lr: float, update: int) -> None:
    """Readies the optimizer for update number `update`, from 1, since its moments were zero."""
    faster, coarser = undone_correction(recipe, update)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"] * faster
        group["eps"] = recipe.eps * coarser
        # AdamW decays by lr * weight_decay.
        group["weight_decay"] = recipe.weight_decay / faster if group["decayed"] else 0.0


def updates(optimizer: torch.optim.AdamW) -> int:
    """How many updates Adam itself has counted: the most of any weight, for at ZeRO 0 a weight
    without a gradient, such as the mask embedding in a task that masks nothing, is passed over."""
    return max(int(state["step"]) for state in optimizer.state.values())


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Head and backbone apart, for the learning rate; vectors apart, where they do not decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, weight in net.named_parameters():
        decayed = recipe.decay_vectors or weight.ndim > 1
        groups[name.startswith("head."), decayed].append(weight)
    return [
        {
            "params": weights,
            "lr_scale": recipe.head_lr_scale if head else 1.0,
            "decayed": decayed,
        }
        for (head, decayed), weights in groups.items()
    ]


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
