"""What a run proves about itself. Each check has caught, or would have, a defect of published code.

All raise InvariantError, and say that it is a defect: no recipe and no data can cause them, except
where they say so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.errors import InvariantError
from trainables.spec import Recipe
from trainables.tickets.weight_mask import Masks, kept_sha256, pruned_nonzero
from trainables.training.recipe import lr_at, undone_correction

_REPORT = "this is a defect, please report it"


def check_theta(start: Mapping[str, Tensor], expected: str) -> str:
    """Hash of all start weights of backbone and head, before any ticket; 0.3 CPU-s for 110 million.

    `expected`, where it is not empty, is that of the run that cut the ticket: BERT-Tickets' code
    kept its heads from round to round, and rewound to weights that had moved with the live ones.
    """
    found = kept_sha256(start, {})
    if expected and found != expected:
        raise InvariantError(
            f"reset: the start weights of backbone and head are {found[:12]}, those of the run that"
            f" cut the ticket were {expected[:12]}; every level must start alike: {_REPORT}"
        )
    return found


def check_start(weights: Mapping[str, Tensor], masks: Masks, expected: str) -> None:
    """That the engine holds the start weights under the ticket, and nothing else."""
    found = kept_sha256(weights, masks)
    if found != expected or pruned_nonzero(weights, masks):
        raise InvariantError(
            f"reset: the engine starts from weights {found[:12]}, not from the start weights "
            f"{expected[:12]} under the ticket; {_REPORT}"
        )


def check_schedule(
    recipe: Recipe, steps: tuple[int, int], used: tuple[list[float], list[float]], updates: int
) -> None:
    """That steps `steps[0]` to `steps[1]` of the recipe's own schedule were trained from fresh
    moments, with the learning rates `used` in the first and in the last of them, by group.

    BERT-Tickets' rounds shared one schedule, so that within a round it fell to 90 % only.
    """
    first, end = steps
    if updates != end - first:
        raise InvariantError(
            f"schedule: Adam has counted {updates} updates, the run trained {end - first}; its "
            f"moments are not this run's own: {_REPORT}"
        )
    if first == end:
        return
    for step, rates in zip((first, end - 1), used, strict=True):
        faster, _ = undone_correction(recipe, step + 1 - first)
        lr = lr_at(recipe, step)
        allowed = {lr * scale * faster for scale in (1.0, recipe.head_lr_scale)}
        if not set(rates) <= allowed:
            raise InvariantError(
                f"schedule: update {step + 1} used the learning rates {sorted(set(rates))}, the "
                f"recipe's are {sorted(allowed)}; a schedule must not span levels: {_REPORT}"
            )


def check_end(
    start: Mapping[str, Tensor],
    theta: str,
    module: Mapping[str, Tensor],
    final: Mapping[str, Tensor],
    masks: Masks,
) -> int:
    """That the ticket held in the module's weights and in its float32 masters, that the start
    weights are still what they were (the next run in this process may share them), and that all is
    finite; the number of pruned weights that are not zero, which is 0."""
    nonzero = pruned_nonzero(module, masks) + pruned_nonzero(final, masks)
    if nonzero:
        raise InvariantError(
            f"ticket: {nonzero} pruned weights are not zero after training; {_REPORT}"
        )
    if kept_sha256(start, {}) != theta:
        raise InvariantError(f"reset: training wrote to its start weights; {_REPORT}")
    broken = [name for name, value in final.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise InvariantError(
            f"weights: {broken[0]} is not finite after training; lower the learning rate"
        )
    return nonzero
