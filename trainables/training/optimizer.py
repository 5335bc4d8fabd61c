"""AdamW as recipes mean it: its groups of parameters, and its settings at each update."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

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
    for group in optimizer.param_groups:
        for flat in group["params"]:  # a parameter at ZeRO 0, a flat partition above
            optimizer.state[flat] = {
                "step": torch.zeros((), device=flat.device),
                **{kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS},
            }
    if zero is not optimizer:
        zero._lazy_init_hp_params_optimizer_state()


def set_rates(optimizer: torch.optim.AdamW, recipe: Recipe, lr: float, update: int) -> None:
    """Readies the optimizer for update number `update` since its moments were zero, from 1.

    Without bias correction Adam's step is lr * m / (sqrt(v) + eps). torch always corrects, and
    steps lr' * sqrt(c2) / c1 * m / (sqrt(v) + eps' * sqrt(c2)) with c = 1 - beta ** update. So
    lr' = lr * c1 / sqrt(c2) and eps' = eps / sqrt(c2) make it the same step, to the last few bits,
    and lr' * decay' = lr * decay keeps the decay.
    """
    faster = slower = 1.0
    if not recipe.bias_correction:
        slower = (1.0 - recipe.beta2**update) ** 0.5
        faster = (1.0 - recipe.beta1**update) / slower
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"] * faster
        group["eps"] = recipe.eps / slower
        group["weight_decay"] = recipe.weight_decay / faster if group["decayed"] else 0.0


def rates(optimizer: torch.optim.AdamW) -> list[float]:
    """The learning rate of each group as `set_rates` last set it."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def updates(optimizer: torch.optim.AdamW) -> set[int]:
    """How many updates Adam itself has counted; one number, unless something is wrong."""
    return {int(state["step"]) for state in optimizer.state.values()}


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
