"""Run one trial in several processes of this machine, or in a single dedicated process.

The call, the outcome and the calls of the sink are those of `trainables.run`. The processes are
fresh, because a trial at ZeRO 3 leaks memory and changes the results of later trials in its
process. The sink stays in the calling process; rank 0 forwards its calls there.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from trainables.check import check_training
from trainables.distributed.collectives import current_peers
from trainables.distributed.launch import CallHandler, ParentCall, run_processes
from trainables.distributed.process import release_memory
from trainables.run import RunInputs, RunOutcome, install_parts
from trainables.run import run as run_in_process
from trainables.spec import PruneSpec, TrainSpec
from trainables.tickets import TICKET_KINDS
from trainables.tickets.base import Ticket
from trainables.training import checkpoint
from trainables.training.sink import Action, Sink
from trainables.user_modules import install


def run(
    spec: TrainSpec,
    inputs: RunInputs,
    sink: Sink,
    *,
    workers: int = 1,
    prunes: Mapping[str, PruneSpec] = MappingProxyType({}),
    rewinds: Collection[int] = (),
    until: int | None = None,
) -> RunOutcome:
    """Do what `trainables.run.run` does, in `workers` processes with `inputs.threads` threads each.

    Process r uses the r-th of the GPUs that this process sees. Raises the same errors, and
    GroupError.
    """
    release_memory(inputs.device)  # of a failed trial, whose error kept its memory alive
    if workers == 1 and spec.recipe.zero < 3:
        outcome = run_in_process(spec, inputs, sink, prunes=prunes, rewinds=rewinds, until=until)
        release_memory(inputs.device)
        return outcome
    install_parts(spec, inputs.modules)
    check_training(spec, workers)
    argument = pack_arguments(spec, inputs, prunes=prunes, rewinds=rewinds, until=until)
    group_outcome: RunOutcome = run_processes(
        f"{__name__}:run_member",
        argument,
        sink_handler(sink),
        count=workers,
        device=inputs.device,
    )
    return group_outcome


def pack_arguments(
    spec: TrainSpec,
    inputs: RunInputs,
    *,
    prunes: Mapping[str, PruneSpec],
    rewinds: Collection[int],
    until: int | None,
) -> bytes:
    """Serialize the arguments of `run_member`."""
    kind = inputs.ticket.kind if inputs.ticket else ""
    kind_source = TICKET_KINDS.source_of(kind) if kind in TICKET_KINDS else ""
    rewind = None if inputs.rewind is None else checkpoint.encode_checkpoint(inputs.rewind, {})
    outputs = {"prunes": dict(prunes), "rewinds": set(rewinds), "until": until}
    return pickle.dumps((spec, replace(inputs, rewind=None), rewind, kind_source, outputs))


def run_member(argument: bytes, call: ParentCall) -> RunOutcome:
    """Run the trial as a member of the group. The outcome of rank 0 is the trial's."""
    spec, inputs, rewind, kind_source, outputs = pickle.loads(argument)
    if inputs.ticket is not None:  # this process may be on another machine
        install(inputs.modules)
        TICKET_KINDS.check_source(inputs.ticket.kind, kind_source)
    if rewind is not None:
        inputs = replace(inputs, rewind=checkpoint.decode_checkpoint(rewind)[0])
    return run_in_process(spec, inputs, _RemoteSink(call, current_peers().is_first), **outputs)


def sink_handler(sink: Sink) -> CallHandler:
    """Return a handler that passes the calls of rank 0 to `sink`."""

    def handle(name: str, arguments: tuple[Any, ...], blob: bytes | None) -> object:
        method = getattr(sink, name)
        return method(*arguments) if blob is None else method(*arguments, blob)

    return handle


@dataclass(frozen=True, slots=True)
class _RemoteSink:
    """Sink of a member of the group: rank 0 forwards each call to the parent, others ignore it."""

    call: ParentCall
    is_first: bool

    def rewind(self, step: int, payload: bytes) -> None:
        self._forward("rewind", step, blob=payload)

    def ticket(self, key: str, ticket: Ticket) -> None:
        self._forward("ticket", key, ticket)

    def checkpoint(self, payload: bytes) -> None:
        self._forward("checkpoint", blob=payload)

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self._forward("progress", step, dict(values))

    def heartbeat(self) -> None:
        self._forward("heartbeat")

    def next_action(self, step: int) -> Action:
        return self._forward("next_action", step) or "continue"

    def _forward(self, name: str, *arguments: object, blob: bytes | None = None) -> Any:
        return self.call(name, *arguments, blob=blob) if self.is_first else None
