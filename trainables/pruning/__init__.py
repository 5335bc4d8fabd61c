"""Pruning methods by name. This module imports nothing heavy, because planning reads it too.

To add a method, write `trainables/pruning/NAME.py` with

    prune(spec: PruneSpec, weights, ticket, reference) -> dict[str, NDArray[bool]]

and add a line to `PRUNERS`. `weights` are the pool's float32 tensors in order of depth. `ticket` is
the ticket that was applied while they were trained, and `reference` the ticket whose count in each
tensor is copied; either may be None. The result has the names and shapes of `weights`, and is True
where a weight is kept.

In a run of several processes, each process holds a shard of every tensor. Rank 0 then gathers the
weights and calls `prune`, unless the module also has

    prune_shards(spec: PruneSpec, weights, ticket, peers: Peers) -> dict[str, NDArray[bool]]

which every process calls with its shards (n,) of the weights and the ticket, and which returns its
shards of the new ticket.
"""

from __future__ import annotations

PRUNERS: dict[str, str] = {
    "magnitude": "trainables.pruning.magnitude",
    "random": "trainables.pruning.random",
}
"""Name of the method -> its module."""


def kept_count(total: int, sparsity: float) -> int:
    """Return how many of `total` weights a ticket of the given sparsity keeps."""
    return total - round(total * sparsity)
