"""What a trial needs beside its spec: files of this machine, and what its parents committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from orchestrator.plan.keys import canonical, from_json
from orchestrator.store.tickets import TicketStore
from orchestrator.worker.protocol import Context
from trainables.errors import DataError, TicketMismatch
from trainables.run import Inputs
from trainables.spec import CutSpec, ModelSpec, TrainSpec

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Supplies:
    store: TicketStore
    context: Context

    def of_run(self, spec: TrainSpec) -> Inputs:
        """Raises DataError, TicketMismatch or a StoreError."""
        return Inputs(
            data=self._path(spec.task.data),
            cache=Path(self.context.cache),
            weights=self._path(spec.start.weights) if spec.start.weights else None,
            rewind=self._rewind(spec.start.trial) if spec.start.trial else None,
            ticket=self._masks(spec.ticket, spec.model) if spec.ticket else None,
            theta_sha256=self._theta(spec) if spec.ticket else "",
            device=self.context.device,
            threads=self.context.threads,
        )

    def of_cut(self, spec: CutSpec) -> Inputs:
        """Of a cut that rides no run. Raises the same."""
        start = spec.start
        return Inputs(
            data=Path(),  # a cut looks at no example
            cache=Path(self.context.cache),
            weights=self._path(start.weights) if start and start.weights else None,
            rewind=self._rewind(start.trial) if start and start.trial else None,
            like=self._masks(spec.like, spec.model) if spec.like else None,
            threads=self.context.threads,
        )

    def _path(self, fingerprint: str) -> Path:
        if fingerprint not in self.context.locations:
            raise DataError(
                f"no path is known for content {fingerprint[:12]}; name it in the sweep"
            )
        return Path(self.context.locations[fingerprint])

    def _masks(self, key: str, model: ModelSpec) -> Masks:
        """The ticket that the cut `key` committed, if it was cut for this model."""
        ref = self.store.record(key).ticket
        assert ref is not None, f"trial {key} is no cut"
        ticket = self.store.ticket(ref.sha256)
        if (ticket.scheme, ticket.model_sha256) != (model.architecture, digest(model)):
            raise TicketMismatch(
                f"ticket {ref.sha256[:12]} was cut from a {ticket.scheme} of another configuration"
                f" than this {model.architecture} {model.size}; use tickets of the same model"
            )
        masks: Masks = ticket.masks()
        return masks

    def _theta(self, spec: TrainSpec) -> str:
        """Hash of what the run that cut the worn ticket started from, if both start alike: a chain
        must rewind to the same weights, head and all, at every level."""
        cut = from_json(self.store.record(spec.ticket).spec)
        if not isinstance(cut, CutSpec) or not cut.run:
            return ""
        record = self.store.record(cut.run)
        before = from_json(record.spec)
        assert isinstance(before, TrainSpec)
        if _start(before) != _start(spec):
            return ""
        return str(record.checks["theta_sha256"])

    def _rewind(self, key: str) -> dict[str, Tensor]:
        ref = self.store.record(key).weights
        assert ref is not None, f"trial {key} is no rewind point"
        return load(self.store.weights(ref))


def digest(model: ModelSpec) -> str:
    """Hash of an architecture and its configuration: what a ticket's names and shapes are of."""
    return sha256(canonical(asdict(model))).hexdigest()


def _start(spec: TrainSpec) -> tuple[object, ...]:
    return spec.model, spec.task, spec.start, spec.head, spec.seeds.head
