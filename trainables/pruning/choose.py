"""Calling a pruning method by name: alone, or at the end of a training run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from trainables.distributed.collectives import Peers, Shard
from trainables.errors import CheckpointError, TicketMismatch
from trainables.models.base import Backbone
from trainables.pruning import PRUNERS
from trainables.spec import PruneSpec
from trainables.tickets.base import (
    Masks,
    Scores,
    Space,
    Ticket,
    check_covers,
    kind_module,
    shapes_of,
)


def method_module(name: str) -> ModuleType:
    """Import the module of a pruning method."""
    return importlib.import_module(PRUNERS[name].module)


@dataclass(frozen=True, slots=True)
class WantedTicket:
    """A ticket that is to be chosen at the end of a training run."""

    spec: PruneSpec
    space: Space
    pool: Sequence[str]
    """Names of the pool's weights, in order of depth."""

    @classmethod
    def of(cls, spec: PruneSpec, backbone: Backbone) -> WantedTicket:
        """Take names and shapes from the backbone, before the run."""
        space = kind_module(spec.ticket_kind).space(backbone, spec.pool)
        return cls(spec, space, backbone.prunable(spec.pool))


def prune_alone(
    spec: PruneSpec,
    space: Space,
    pool: Sequence[str],
    weights: Mapping[str, Tensor],
    ticket: Ticket | None,
    reference: Ticket | None = None,
) -> Ticket:
    """Return the ticket over `space` that a method chooses in one process.

    `weights` are the backbone's full float32 tensors, of which the method gets those of the `pool`.
    They may be empty for a method that needs none.

    Raises CheckpointError if a tensor is missing, TicketMismatch for a given ticket of another kind
    and for a result without the names and shapes of the space, and the errors of the method.
    """
    within, like = _arrays(spec, ticket), _arrays(spec, reference)
    if PRUNERS[spec.method].needs == "nothing":
        chosen = method_module(spec.method).prune(spec, space, within, like)
        return _ticket(spec, space, chosen)
    missing = [name for name in pool if name not in weights]
    if missing:
        raise CheckpointError(
            f"prune: the start weights have no {missing[0]}, which the pool {spec.pool!r} of this "
            "model contains; start from weights of this model"
        )
    chosen = method_module(spec.method).prune(
        spec, {name: weights[name] for name in pool}, within, like
    )
    return _ticket(spec, space, chosen)


def prune_at_end(
    wanted: WantedTicket,
    shards: Mapping[str, Shard],
    shapes: Space,
    full_weights: Mapping[str, Tensor],
    ticket: Ticket | None,
    peers: Peers,
) -> Ticket | None:
    """Return the ticket that a method chooses at the end of a run under `ticket`, in which each
    process holds `shards` of the backbone's weights. `shapes` are those of the full weights.

    Rank 0, which has the `full_weights` too, gets the ticket; the others get None. Raises the
    errors of `prune_alone`.
    """
    spec, space, pool = wanted.spec, wanted.space, wanted.pool
    arrays = _arrays(spec, ticket)
    method = method_module(spec.method)
    if PRUNERS[spec.method].needs == "search":
        if not peers.is_first:
            return None
        return _ticket(spec, space, *method.found(spec, space, full_weights))
    units_are_weights = dict(space) == {name: tuple(shapes[name]) for name in pool}
    if not units_are_weights or not hasattr(method, "prune_shards"):
        if not peers.is_first:
            return None
        return prune_alone(spec, space, pool, full_weights, ticket)
    own = {name: shards[name] for name in pool}
    chosen = method.prune_shards(
        spec,
        {name: each.values for name, each in own.items()},
        None if arrays is None else {n: own[n].select(m) for n, m in arrays.items() if n in own},
        peers,
    )
    masks = peers.gather_shards(
        {
            name: Shard(each.start, torch.from_numpy(chosen[name]).view(torch.uint8))
            for name, each in own.items()
        },
        space,
    )
    if not peers.is_first:
        return None
    return _ticket(spec, space, {n: mask.numpy().view(np.bool_) for n, mask in masks.items()})


def check_kind(spec: PruneSpec, given: Ticket | None) -> None:
    """Raise TicketMismatch if a given ticket is not of the new ticket's kind."""
    if given is not None and given.kind != spec.ticket_kind:
        raise TicketMismatch(
            f"prune: the given ticket is of the kind {given.kind!r}, the new one of the kind "
            f"{spec.ticket_kind!r}; use a ticket of the same kind"
        )


def _arrays(spec: PruneSpec, given: Ticket | None) -> Masks | None:
    check_kind(spec, given)
    return None if given is None else given.arrays


def _ticket(spec: PruneSpec, space: Space, arrays: Masks, scores: Scores | None = None) -> Ticket:
    """Return the method's result as a ticket, after a check that it covers the space."""
    check_covers(arrays, space, spec.pool)
    scores = scores or {}
    if scores and shapes_of(scores) != shapes_of(arrays):
        raise TicketMismatch(
            f"pruning method {spec.method!r}: its scores do not have the shapes of its ticket"
        )
    return Ticket(arrays, spec.ticket_kind, scores)
