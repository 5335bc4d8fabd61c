"""What a run proves about itself. Each check has caught, or would have, a defect of published code.

All raise InvariantError, and say that it is a defect: no recipe and no data can cause them, except
where they say so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.distributed.collectives import ALONE, Peers, Stretch
from trainables.errors import InvariantError
from trainables.optim.adamw import undone_correction
from trainables.optim.schedules import lr_at
from trainables.spec import Recipe
from trainables.tickets.weights import Masks, kept_sha256, pruned_nonzero

_REPORT = "this is a defect, please report it"


def check_theta(start: Mapping[str, Tensor], expected: str, peers: Peers = ALONE) -> str:
    """Hash of all start weights of backbone and head, before any ticket; 0.3 CPU-s for 110 million.

    `expected`, where it is not empty, is that of the run that cut the ticket: BERT-Tickets' code
    kept its heads from round to round, and rewound to weights that had moved with the live ones.
    """
    found = kept_sha256(start, {})
    if peers.agreed(found) != found:
        raise InvariantError(
            f"reset: process {peers.rank} of {peers.count} starts from the weights {found[:12]}, "
            f"the first from others; {_REPORT}"
        )
    if expected and found != expected:
        raise InvariantError(
            f"reset: the start weights of backbone and head are {found[:12]}, those of the run that"
            f" cut the ticket were {expected[:12]}; every level must start alike: {_REPORT}"
        )
    return found


def check_start(
    held: Mapping[str, Stretch], start: Mapping[str, Tensor], masks: Masks, peers: Peers
) -> None:
    """That the engine holds the start weights under the ticket, and nothing else; each process
    looks at what it `held`."""
    wrong = [
        name
        for name, stretch in held.items()
        if not np.array_equal(stretch.values.numpy(), _worn(name, stretch, start, masks))
    ]
    if peers.total(np.array([len(wrong)], np.int64))[0]:
        where = f"{wrong[0]} is one that differs" if wrong else "another process's differ"
        raise InvariantError(
            f"reset: the engine holds other weights than the start weights under the ticket "
            f"({where}); {_REPORT}"
        )


def _worn(
    name: str, stretch: Stretch, start: Mapping[str, Tensor], masks: Masks
) -> NDArray[np.generic]:
    values = stretch.of(start[name].numpy())
    return np.where(stretch.of(masks[name]), values, 0) if name in masks else values


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
    own: Mapping[str, Stretch],
    held: Mapping[str, Stretch],
    masks: Masks,
    peers: Peers,
) -> int:
    """That the ticket held in the module's `own` weights and in the float32 masters, of which this
    process `held` a part; that the start weights are still what they were (the next run in this
    process may share them), and that all is finite. Each process looks at what it has; the number
    of pruned weights that are not zero, which is 0."""
    nonzero = _nonzero(own, masks) + _nonzero(held, masks)
    nonzero = int(peers.total(np.array([nonzero], np.int64))[0])
    if nonzero:
        raise InvariantError(
            f"ticket: {nonzero} pruned weights are not zero after training; {_REPORT}"
        )
    if kept_sha256(start, {}) != theta:
        raise InvariantError(f"reset: training wrote to its start weights; {_REPORT}")
    broken = [n for n, each in held.items() if not bool(torch.isfinite(each.values).all())]
    if broken:
        raise InvariantError(
            f"weights: {broken[0]} is not finite after training; lower the learning rate"
        )
    return nonzero


def check_alike(own: Mapping[str, Stretch], peers: Peers) -> None:
    """That all processes ended with the same weights, where each has all of them (ZeRO 0 to 2)."""
    found = kept_sha256({name: each.values.float() for name, each in own.items()}, {})
    if peers.agreed(found) != found:
        raise InvariantError(
            f"weights: process {peers.rank} of {peers.count} ended with others than the first; "
            f"{_REPORT}"
        )


def _nonzero(weights: Mapping[str, Stretch], masks: Masks) -> int:
    return pruned_nonzero(
        {name: weights[name].values for name in masks},
        {name: weights[name].of(kept) for name, kept in masks.items()},
    )
