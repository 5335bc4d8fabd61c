"""What a trial needs of its parents' results: the weights that a run starts from, and the run that
a ticket was pruned from. It imports torch."""

from __future__ import annotations

from safetensors.torch import load
from torch import Tensor

from orchestrator.plan.keys import from_json
from orchestrator.store.record import Record
from orchestrator.store.tickets import TrialStore
from trainables.spec import PruneSpec, Start, TrainSpec


def rewind_weights(store: TrialStore, start: Start | None) -> dict[str, Tensor] | None:
    """Return the weights of the rewind point that a run starts from; None if it starts from
    none."""
    return load(store.rewind_point(start.trial)) if start and start.trial else None


def pruned_run(store: TrialStore, spec: PruneSpec) -> tuple[TrainSpec, Record] | None:
    """Return the training run whose weights a prune trial ranks; None if it ranks none."""
    if not spec.run:
        return None
    record = store.record(spec.run)
    run = from_json(record.spec)
    assert isinstance(run, TrainSpec)
    return run, record
