"""Checks that a run makes of itself. Each would have caught a defect of published code.

All raise InvariantError with a request to report a defect. No recipe and no data can cause these
errors, unless the message says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.distributed.collectives import SINGLE_PROCESS, Peers, Shard
from trainables.errors import InvariantError
from trainables.optim.build import allowed_rates
from trainables.optim.schedules import lr_at
from trainables.spec import Recipe
from trainables.tickets.base import Masks
from trainables.tickets.weights import kept_sha256

_REPORT = "this is a defect, please report it"


def check_start_hash(
    start: Mapping[str, Tensor], expected: str, peers: Peers = SINGLE_PROCESS
) -> str:
    """Check and return the hash of the start: all weights and buffers of backbone and head, before
    any ticket is applied, and the task's state. It takes 0.3 CPU-s for 110 million weights.

    `expected`, unless it is empty, is the hash of the run that produced the ticket. BERT-Tickets'
    code did not rewind its heads, and it rewound the backbone to weights that training had changed,
    because they were aliases of the network's.
    """
    sha256 = kept_sha256(start, {})
    if peers.broadcast(sha256) != sha256:
        raise InvariantError(
            f"start weights: process {peers.rank} of {peers.world_size} starts from "
            f"{sha256[:12]}, process 0 from other weights; {_REPORT}"
        )
    if expected and sha256 != expected:
        raise InvariantError(
            f"start weights: those of backbone and head are {sha256[:12]}, those of the run "
            f"that produced the ticket were {expected[:12]}; every level must start from the same "
            f"weights: {_REPORT}"
        )
    return sha256


def check_engine_start(
    shards: Mapping[str, Shard], start: Mapping[str, Tensor], masks: Masks, peers: Peers
) -> None:
    """Check that the engine holds the start weights under the ticket. Each process checks its own
    `shards`."""
    wrong = [
        name
        for name, shard in shards.items()
        if not np.array_equal(shard.values.numpy(), _masked_start(name, shard, start, masks))
    ]
    if peers.all_reduce(np.array([len(wrong)], np.int64))[0]:
        where = f"such as {wrong[0]}" if wrong else "in another process"
        raise InvariantError(
            f"start weights: the engine does not hold them under the ticket ({where}); {_REPORT}"
        )


def _masked_start(
    name: str, shard: Shard, start: Mapping[str, Tensor], masks: Masks
) -> NDArray[np.generic]:
    values = shard.select(start[name].numpy())
    return np.where(shard.select(masks[name]), values, 0) if name in masks else values


def check_fresh_optimizer(fresh: bool, peers: Peers) -> None:
    """Check that the optimizer's state is zero before the run's first update; `fresh` is whether
    this process's part is. Momentum from before the pruning would move pruned weights, and momentum
    of another run any weight."""
    if peers.all_reduce(np.array([not fresh], np.int64))[0]:
        raise InvariantError(
            "optimizer: its state is not zero before the first update, as if it were carried over "
            f"from another run; {_REPORT}"
        )


def check_schedule(
    recipe: Recipe, steps: tuple[int, int], rates: tuple[list[float], list[float]], updates: int
) -> None:
    """Check that steps `steps[0]` to `steps[1]` of the recipe's own schedule were trained from
    a fresh optimizer, with the learning rates `rates` (by parameter group) in the first and the
    last of them.

    In BERT-Tickets' code all rounds share one schedule, so the rate falls only by a tenth in each.
    """
    first, end = steps
    if updates != end - first:
        raise InvariantError(
            f"schedule: the optimizer has counted {updates} updates, the run trained {end - first} "
            f"steps; its state is not that of this run: {_REPORT}"
        )
    if first == end:
        return
    for step, used in zip((first, end - 1), rates, strict=True):
        allowed = allowed_rates(recipe, lr_at(recipe, step), step + 1 - first)
        if not set(used) <= allowed:
            raise InvariantError(
                f"schedule: update {step + 1} used the learning rates {sorted(set(used))}, the "
                f"recipe's are {sorted(allowed)}; a schedule must not span levels: {_REPORT}"
            )


def check_end(
    start: Mapping[str, Tensor],
    theta_sha256: str,
    shards: Mapping[str, Shard],
    violations: int,
    violation: str,
    peers: Peers,
) -> int:
    """Check the state after training, and return the number of units that the ticket turns off and
    that are not off: 0.

    `violations` is that number as this process sees it, and `violation` what to report with it.
    The start weights must not have changed, because the next run in this process may share them.
    All float32 masters, of which `shards` are this process's part, must be finite. Each process
    checks its own.
    """
    violations = int(peers.all_reduce(np.array([violations], np.int64))[0])
    if violations:
        raise InvariantError(f"ticket: {violations} {violation}; {_REPORT}")
    if kept_sha256(start, {}) != theta_sha256:
        raise InvariantError(f"start weights: training changed them; {_REPORT}")
    diverged = [n for n, each in shards.items() if not bool(torch.isfinite(each.values).all())]
    if diverged:
        raise InvariantError(
            f"weights: {diverged[0]} is not finite after training; lower the learning rate"
        )
    return violations


def check_ranks_agree(replicated: Mapping[str, Shard], peers: Peers) -> None:
    """Check that all processes ended with the same state, of which `replicated` is the part that
    each has in full: buffers, and at ZeRO 0 to 2 the module's own weights."""
    if peers.world_size == 1:
        return
    values = {name: each.values for name, each in replicated.items()}
    # numpy has no bfloat16. Every bfloat16 value is a float32 value.
    bits = {n: v.float() if v.dtype == torch.bfloat16 else v for n, v in values.items()}
    sha256 = kept_sha256(bits, {})
    if peers.broadcast(sha256) != sha256:
        raise InvariantError(
            f"weights: process {peers.rank} of {peers.world_size} ended with other weights than "
            f"process 0; {_REPORT}"
        )
