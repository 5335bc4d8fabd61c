"""Pruning methods by name. This module imports nothing heavy, because planning reads it too.

To add a method, write `trainables/pruning/NAME.py` with

    prune(spec: PruneSpec, weights, ticket, reference) -> dict[str, NDArray[bool]]

and add an entry to `PRUNERS`. `weights` are the pool's float32 tensors in order of depth. `ticket`
is the ticket that was applied while they were trained, and `reference` the ticket whose count in
each tensor is copied; either may be None. The result has the names and shapes of `weights`, and is
True where a weight is kept.

In a run of several processes, each process holds a shard of every tensor. Rank 0 then gathers the
weights and calls `prune`, unless the module also has

    prune_shards(spec: PruneSpec, weights, ticket, peers: Peers) -> dict[str, NDArray[bool]]

which every process calls with its shards (n,) of the weights and the ticket, and which returns its
shards of the new ticket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainables.registry import Registry

Needs: TypeAlias = Literal["nothing", "weights", "trained", "search"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneMethod:
    """What planning has to know of a pruning method."""

    module: str
    needs: Needs
    """What the method looks at. `nothing`: names and shapes only. `weights`: any weights, trained
    or not. `trained`: the weights at the end of a training run. `search`: what a training run with
    the method's own search has learned."""
    kinds: tuple[str, ...] = ("weights",)
    """The kinds of tickets that it makes (`trainables.tickets.TICKET_KINDS`)."""
    seeded: bool = False
    """Whether it draws from `PruneSpec.seed`. Otherwise the seed stays out of the trial's key."""


PRUNERS: Registry[PruneMethod] = Registry(
    PruneMethod,
    group="sweepstakes.pruners",
    attribute="PRUNER",
    builtin={
        "magnitude": PruneMethod(module="trainables.pruning.magnitude", needs="weights"),
        "random": PruneMethod(module="trainables.pruning.random", needs="nothing", seeded=True),
    },
)


def kept_count(total: int, sparsity: float) -> int:
    """Return how many of `total` weights a ticket of the given sparsity keeps."""
    return total - round(total * sparsity)
