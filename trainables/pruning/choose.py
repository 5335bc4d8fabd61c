"""Calling a pruning method by name, on full weights or on the shards of several processes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.distributed.collectives import Peers, Shard
from trainables.errors import CheckpointError
from trainables.pruning import PRUNERS
from trainables.spec import BACKBONE, PruneSpec
from trainables.tickets.weights import Masks


def prune_weights(
    spec: PruneSpec,
    names: Sequence[str],
    weights: Mapping[str, Tensor],
    ticket: Masks | None,
    reference: Masks | None = None,
) -> dict[str, NDArray[np.bool_]]:
    """Return the ticket over the pool `names` of the backbone's tensors in `weights`
    (`backbone.*`).

    Raises CheckpointError if a tensor is missing, and the errors of the pruning method.
    """
    missing = [name for name in names if BACKBONE + name not in weights]
    if missing:
        raise CheckpointError(
            f"prune: the start weights have no {missing[0]}, which the pool {spec.pool!r} of this "
            "model contains; start from weights of this model"
        )
    pool = {name: weights[BACKBONE + name] for name in names}
    method = importlib.import_module(PRUNERS[spec.method].module)
    masks: dict[str, NDArray[np.bool_]] = method.prune(spec, pool, ticket, reference)
    return masks


def prune_sharded_weights(
    spec: PruneSpec,
    names: Sequence[str],
    shards: Mapping[str, Shard],
    full_weights: Mapping[str, Tensor],
    ticket: Masks | None,
    peers: Peers,
) -> dict[str, NDArray[np.bool_]]:
    """Return the ticket of `prune_weights` if each process holds `shards` of the weights.

    Rank 0, which has the `full_weights` too, gets the ticket; the others get an empty mapping.
    """
    method = importlib.import_module(PRUNERS[spec.method].module)
    if not hasattr(method, "prune_shards"):
        return prune_weights(spec, names, full_weights, ticket) if peers.is_first else {}
    pool = {name: shards[BACKBONE + name] for name in names}
    ticket_shards = method.prune_shards(
        spec,
        {name: each.values for name, each in pool.items()},
        None if ticket is None else {n: pool[n].select(m) for n, m in ticket.items() if n in pool},
        peers,
    )
    masks = peers.gather_shards(
        {
            name: Shard(each.start, torch.from_numpy(ticket_shards[name]).view(torch.uint8))
            for name, each in pool.items()
        },
        {name: full_weights[BACKBONE + name].shape for name in names} if peers.is_first else {},
    )
    return {name: mask.numpy().view(np.bool_) for name, mask in masks.items()}
