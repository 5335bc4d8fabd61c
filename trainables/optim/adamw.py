"""AdamW as recipes specify it: with or without bias correction."""

from __future__ import annotations

from typing import Any

import torch

from trainables.spec import Recipe


def state_names(recipe: Recipe) -> tuple[str, ...]:
    return ("step", "exp_avg", "exp_avg_sq")


def build(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        groups,
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        # One pass over the weights instead of the plain loop's dozen. On CPU the loop's torch.sqrt
        # is also 8 times slower if 70 % of its input is zero, like a masked network's moments.
        fused=True,
    )


def settings(recipe: Recipe, lr: float, update: int) -> dict[str, float]:
    lr_factor, eps_factor = correction_factors(recipe, update)
    return {
        "lr": lr * lr_factor,
        "eps": recipe.eps * eps_factor,
        # AdamW decays by lr * weight_decay.
        "weight_decay": recipe.weight_decay / lr_factor,
    }


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
