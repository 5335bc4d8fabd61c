"""Inputs of a trial in addition to its spec: files of this machine, results of its parents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.plan.keys import canonical_sha256, from_json
from orchestrator.store.parents import pruned_run, rewind_weights
from orchestrator.store.tickets import TrialStore
from orchestrator.worker.protocol import Context
from trainables.data.reference import data_reference
from trainables.errors import DataError, TicketMismatch
from trainables.run import RunInputs
from trainables.spec import ModelSpec, PruneSpec, TrainSpec
from trainables.tickets import TICKET_KINDS
from trainables.tickets.base import Ticket


@dataclass(frozen=True, slots=True)
class TrialInputs:
    """Reads the inputs of trials.

    Its methods raise DataError, TicketMismatch, PluginError or a StoreError.
    """

    store: TrialStore
    context: Context

    def for_training(self, spec: TrainSpec) -> RunInputs:
        """Return the inputs of a training run, without a checkpoint."""
        return RunInputs(
            data=data_reference(self._location(spec.task.data)),
            cache=Path(self.context.cache),
            weights=self._path(spec.start.weights) if spec.start.weights else None,
            rewind=rewind_weights(self.store, spec.start),
            ticket=self._ticket(spec.ticket, spec.model) if spec.ticket else None,
            theta_sha256=self._theta(spec) if spec.ticket else "",
            device=self.context.device,
            threads=self.context.threads,
            modules=self.context.modules,
        )

    def for_pruning(self, spec: PruneSpec) -> RunInputs:
        """Return the inputs of a prune trial that no training run produces."""
        start = spec.start
        return RunInputs(
            data=Path(),  # pruning reads no examples
            cache=Path(self.context.cache),
            weights=self._path(start.weights) if start and start.weights else None,
            rewind=rewind_weights(self.store, start),
            reference=self._ticket(spec.like, spec.model) if spec.like else None,
            threads=self.context.threads,
            modules=self.context.modules,
        )

    def _path(self, fingerprint: str) -> Path:
        return Path(self._location(fingerprint))

    def _location(self, fingerprint: str) -> str:
        if fingerprint not in self.context.locations:
            raise DataError(
                f"no path is known for content {fingerprint[:12]}; name it in the sweep"
            )
        return self.context.locations[fingerprint]

    def _ticket(self, key: str, model: ModelSpec) -> Ticket:
        """Return the ticket that the prune trial `key` committed; it must fit `model`."""
        record = self.store.record(key)
        assert record.ticket is not None, f"trial {key} has no ticket"
        spec = from_json(record.spec)
        assert isinstance(spec, PruneSpec)
        TICKET_KINDS.check_source(spec.ticket_kind, spec.kind_source)
        ticket = self.store.ticket(record.ticket.sha256)
        if (ticket.architecture, ticket.model_sha256) != (model.architecture, model_digest(model)):
            raise TicketMismatch(
                f"ticket {ticket.sha256[:12]} is of a {ticket.architecture} of another"
                f" configuration than this {model.architecture} {model.size}; use tickets of the"
                " same model"
            )
        if (ticket.kind, ticket.pool) != (spec.ticket_kind, spec.pool):
            raise TicketMismatch(
                f"ticket {ticket.sha256[:12]} is of the kind {ticket.kind!r} and the pool"
                f" {ticket.pool!r}, its trial of {spec.ticket_kind!r} and {spec.pool!r}; delete the"
                " trial's record, so that the next run makes the ticket again"
            )
        return Ticket(ticket.arrays(), ticket.kind, ticket.scores())

    def _theta(self, spec: TrainSpec) -> str:
        """Return the hash of the start weights of the run that produced the ticket, if that run and
        `spec` have the same start; else an empty string. A chain must rewind to the same weights,
        head included, at every level."""
        prune = from_json(self.store.record(spec.ticket).spec)
        parent = pruned_run(self.store, prune) if isinstance(prune, PruneSpec) else None
        if parent is None:
            return ""
        producer, record = parent
        return str(record.checks["theta_sha256"]) if _start(producer) == _start(spec) else ""


def model_digest(model: ModelSpec) -> str:
    """Hash an architecture and its configuration, which fix the tensor names and shapes of a
    ticket."""
    values = asdict(model)
    if not model.source:  # as in tickets from before models could come from outside
        del values["source"]
    return canonical_sha256(values)


def _start(spec: TrainSpec) -> tuple[object, ...]:
    return spec.model, spec.task, spec.start, spec.head, spec.seeds.head
