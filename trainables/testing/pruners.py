"""The contract of pruning methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trainables.distributed.collectives import SINGLE_PROCESS
from trainables.pruning import PRUNERS, kept_count
from trainables.pruning.choose import method_module, prune_alone
from trainables.spec import ModelSpec, PruneSpec
from trainables.tickets.base import Masks, Ticket, shapes_of

SPARSITIES = (0.0, 0.3, 0.75, 1.0)
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "layers.0.weight": (12, 10),
    "layers.1.weight": (8, 3, 3, 3),
    "head.weight": (1, 17),
}


def check_pruner_contract(name: str) -> None:
    """Check a method of `PRUNERS` that makes tickets from weights, or from names and shapes alone.

    The ticket keeps exactly the planned number of weights. It is the same in every call, and lies
    within the ticket that was applied. With shards, each process gets its part of the same ticket.
    A method that needs a search is tested with its search, in a training run.
    """
    entry = PRUNERS[name]
    assert entry.needs != "search", f"{name} needs a search: test it in a training run"
    weights = {
        key: torch.randn(shape, generator=torch.Generator().manual_seed(index))
        for index, (key, shape) in enumerate(_WEIGHTS.items())
    }
    total = sum(weight.numel() for weight in weights.values())
    model = ModelSpec(architecture="uniter", size="tiny")  # only for messages
    for scope in ("global", "layer"):
        before: Masks | None = None
        for sparsity in SPARSITIES:
            run = "" if entry.needs == "nothing" else "run"
            spec = PruneSpec(model=model, method=name, sparsity=sparsity, run=run, scope=scope)
            masks = _prune(spec, weights, before)
            if scope == "global":
                kept = sum(int(mask.sum()) for mask in masks.values())
                assert kept == kept_count(total, sparsity), f"{sparsity}: keeps {kept} of {total}"
            if before is not None:
                outside = [key for key in masks if bool((masks[key] & ~before[key]).any())]
                assert not outside, f"{sparsity}: {outside} keep what the applied ticket prunes"
            again = _prune(spec, weights, before)
            assert all(np.array_equal(masks[key], again[key]) for key in masks), (
                "two calls give two tickets"
            )
            _check_shards(spec, weights, before, masks)
            before = masks
    if entry.seeded:
        spec = PruneSpec(model=model, method=name, sparsity=0.5, run="")
        first, other = (_prune(replace(spec, seed=seed), weights, None) for seed in (0, 1))
        assert any(not np.array_equal(first[key], other[key]) for key in first), (
            "two seeds give one ticket: leave `seeded` out of the entry"
        )


def _prune(spec: PruneSpec, weights: Mapping[str, Tensor], ticket: Masks | None) -> Masks:
    given = {} if PRUNERS[spec.method].needs == "nothing" else weights
    applied = None if ticket is None else Ticket(ticket)
    return prune_alone(spec, shapes_of(weights), [*weights], given, applied).arrays


def _check_shards(
    spec: PruneSpec, weights: Mapping[str, Tensor], ticket: Masks | None, expected: Masks
) -> None:
    """A process alone holds one shard of each tensor: all of it, flat."""
    method = method_module(spec.method)
    if not hasattr(method, "prune_shards"):
        return
    shards = method.prune_shards(
        spec,
        {key: weight.flatten() for key, weight in weights.items()},
        None if ticket is None else {key: mask.ravel() for key, mask in ticket.items()},
        SINGLE_PROCESS,
    )
    assert all(np.array_equal(shards[key], expected[key].ravel()) for key in expected), (
        "`prune_shards` gives another ticket than `prune`"
    )
