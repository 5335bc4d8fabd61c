"""The contract of pruning methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from trainables.distributed.collectives import SINGLE_PROCESS
from trainables.models import MODELS
from trainables.pruning import PRUNERS, kept_count
from trainables.pruning.choose import method_module, prune_alone
from trainables.spec import ModelSpec, PruneSpec
from trainables.tickets.base import Masks, Space, Ticket, kind_module, shapes_of
from trainables.training.start import init_backbone

SPARSITIES = (0.0, 0.3, 0.75, 1.0)
TINY = ModelSpec(architecture="uniter", size="tiny")


def check_pruner_contract(name: str, model: ModelSpec = TINY) -> None:
    """Check a method of `PRUNERS` that makes tickets from weights, or from names and shapes alone,
    with a small model and the kind of ticket that the method makes by default.

    The ticket keeps exactly the planned number of units: of all arrays together, or of each array
    under the scope `layer`. It is the same in every call, and lies within the ticket that was
    applied. With shards, each process gets its part of the same ticket. A method that needs a
    search is tested with its search, in a training run.
    """
    entry = PRUNERS[name]
    assert entry.needs != "search", f"{name} needs a search: test it in a training run"
    case = _Case.of(model, entry.default_kind)
    common = PruneSpec(
        model=model,
        method=name,
        ticket_kind=entry.default_kind,
        sparsity=0.5,
        pool=MODELS[model.architecture].pool,
        run="" if entry.needs == "nothing" else "run",
    )
    for scope in ("global", "layer"):
        before: Masks | None = None
        for sparsity in SPARSITIES:
            spec = replace(common, sparsity=sparsity, scope=scope)
            masks = case.prune(spec, before)
            _check_counts(spec, masks)
            if before is not None:
                outside = [key for key in masks if bool((masks[key] & ~before[key]).any())]
                assert not outside, f"{sparsity}: {outside} keep what the applied ticket prunes"
            again = case.prune(spec, before)
            assert all(np.array_equal(masks[key], again[key]) for key in masks), (
                "two calls give two tickets"
            )
            _check_shards(spec, case, before, masks)
            before = masks
    if entry.seeded:
        first, other = (case.prune(replace(common, seed=seed), None) for seed in (0, 1))
        assert any(not np.array_equal(first[key], other[key]) for key in first), (
            "two seeds give one ticket: leave `seeded` out of the entry"
        )


@dataclass(frozen=True)
class _Case:
    """The pool's weights and the space of the tickets."""

    weights: Mapping[str, Tensor]
    space: Space

    @classmethod
    def of(cls, model: ModelSpec, kind: str) -> _Case:
        backbone, pool = init_backbone(model, 0, 0.0), MODELS[model.architecture].pool
        state = backbone.state_dict()
        weights = {name: state[name] for name in backbone.prunable(pool)}
        return cls(weights, kind_module(kind).space(backbone, pool))

    def prune(self, spec: PruneSpec, ticket: Masks | None) -> Masks:
        given = {} if PRUNERS[spec.method].needs == "nothing" else self.weights
        applied = None if ticket is None else Ticket(ticket, spec.ticket_kind)
        return prune_alone(spec, self.space, [*self.weights], given, applied).arrays


def _check_counts(spec: PruneSpec, masks: Masks) -> None:
    kept = {key: int(np.count_nonzero(mask)) for key, mask in masks.items()}
    sizes = {key: mask.size for key, mask in masks.items()}
    if spec.scope == "global":
        kept, sizes = {"all": sum(kept.values())}, {"all": sum(sizes.values())}
    for key, size in sizes.items():
        expected = kept_count(size, spec.sparsity)
        assert kept[key] == expected, (
            f"scope {spec.scope}, sparsity {spec.sparsity}: keeps {kept[key]} of {size} units in"
            f" {key}, not {expected}"
        )


def _check_shards(spec: PruneSpec, case: _Case, ticket: Masks | None, expected: Masks) -> None:
    """A process alone holds one shard of each tensor: all of it, flat."""
    method = method_module(spec.method)
    if dict(case.space) != shapes_of(case.weights) or not hasattr(method, "prune_shards"):
        return
    shards = method.prune_shards(
        spec,
        {key: weight.flatten() for key, weight in case.weights.items()},
        None if ticket is None else {key: mask.ravel() for key, mask in ticket.items()},
        SINGLE_PROCESS,
    )
    assert all(np.array_equal(shards[key], expected[key].ravel()) for key in expected), (
        "`prune_shards` gives another ticket than `prune`"
    )
