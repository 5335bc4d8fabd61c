"""Run one trial in several processes of this machine, or in one that is its alone.

The call, the outcome and what the sink gets are those of `trainables.run`. The processes are fresh:
a trial at ZeRO 3 leaks, and changes what later ones in its process compute. The sink stays with the
caller, whom the first of them asks.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables import run as single
from trainables.distributed.collectives import here
from trainables.distributed.launch import Call, Serve, together
from trainables.distributed.process import release_memory
from trainables.run import Inputs, Outcome
from trainables.spec import CutSpec, TrainSpec
from trainables.training import checkpoint
from trainables.training import recipe as recipes
from trainables.training.sink import Sink, Turn


def run(
    spec: TrainSpec,
    inputs: Inputs,
    sink: Sink,
    *,
    workers: int = 1,
    cuts: Mapping[str, CutSpec] = MappingProxyType({}),
    rewinds: Collection[int] = (),
    until: int | None = None,
) -> Outcome:
    """`trainables.run.run` by `workers` processes with `inputs.threads` each; process r has the
    r-th of the GPUs that this one sees.

    Raises the same, and GroupError.
    """
    release_memory(inputs.device)  # of a trial that failed: its error held on to it
    if workers == 1 and spec.recipe.zero < 3:
        outcome = single.run(spec, inputs, sink, cuts=cuts, rewinds=rewinds, until=until)
        release_memory(inputs.device)
        return outcome
    recipes.check(spec.recipe)
    work = packed(spec, inputs, cuts=cuts, rewinds=rewinds, until=until)
    joint: Outcome = together(
        f"{__name__}:member", work, serving(sink), count=workers, device=inputs.device
    )
    return joint


def packed(
    spec: TrainSpec,
    inputs: Inputs,
    *,
    cuts: Mapping[str, CutSpec],
    rewinds: Collection[int],
    until: int | None,
) -> bytes:
    """What a member of the group needs to know."""
    point = None if inputs.rewind is None else checkpoint.encode(inputs.rewind, {})
    orders = {"cuts": dict(cuts), "rewinds": set(rewinds), "until": until}
    return pickle.dumps((spec, replace(inputs, rewind=None), point, orders))


def member(argument: bytes, call: Call) -> Outcome:
    """One process's part, when it has joined the group; the first one's outcome is the trial's."""
    spec, inputs, point, orders = pickle.loads(argument)
    if point is not None:
        inputs = replace(inputs, rewind=checkpoint.decode(point)[0])
    return single.run(spec, inputs, _Relay(call, here().first), **orders)


def serving(sink: Sink) -> Serve:
    """Answers the first member's calls from `sink`."""

    def serve(name: str, arguments: tuple[Any, ...], blob: bytes | None) -> object:
        method = getattr(sink, name)
        return method(*arguments) if blob is None else method(*arguments, blob)

    return serve


@dataclass(frozen=True, slots=True)
class _Relay:
    """The sink as a member sees it: the first passes everything on, the others nothing."""

    call: Call
    first: bool

    def rewind(self, step: int, payload: bytes) -> None:
        self._ask("rewind", step, blob=payload)

    def cut(self, key: str, masks: Mapping[str, NDArray[np.bool_]]) -> None:
        self._ask("cut", key, dict(masks))

    def checkpoint(self, payload: bytes) -> None:
        self._ask("checkpoint", blob=payload)

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self._ask("progress", step, dict(values))

    def alive(self) -> None:
        self._ask("alive")

    def turn(self, step: int) -> Turn:
        return self._ask("turn", step) or "go on"

    def _ask(self, name: str, *arguments: object, blob: bytes | None = None) -> Any:
        return self.call(name, *arguments, blob=blob) if self.first else None
