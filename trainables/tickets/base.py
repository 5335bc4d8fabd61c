"""A ticket in memory, and the protocol of ticket kinds.

The module of a kind has the functions of `TicketModule`. Names in them are the backbone's own,
without the prefix `backbone.`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.distributed.collectives import Shard
from trainables.errors import InvariantError, PluginError, TicketMismatch
from trainables.models.base import Backbone
from trainables.tickets import TICKET_KINDS

Masks: TypeAlias = Mapping[str, NDArray[np.bool_]]
"""Name -> boolean array, True where a unit is kept."""
Scores: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Name -> float32 array of the same shape as the boolean one: a number by which each unit was
chosen, such as the gate of a block. Larger is better."""
Space: TypeAlias = Mapping[str, tuple[int, ...]]
"""Name -> shape of the boolean array, in order of depth."""
Transform: TypeAlias = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Maps a batch to the batch that the network receives instead of it."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The units to keep of a network or of its input."""

    arrays: Masks
    kind: str = "weights"
    """A name in `trainables.tickets.TICKET_KINDS`."""
    scores: Scores = field(default_factory=dict)
    """Of the same names as `arrays`; empty for a kind or a method without scores."""

    @property
    def kept(self) -> int:
        """Number of units that it keeps."""
        return sum(int(np.count_nonzero(array)) for array in self.arrays.values())

    def top_k(self, kept: int) -> Ticket:
        """Return the ticket of the same scores that keeps `kept` units: those with the largest
        scores over all arrays. Ties go to the earlier array and index.

        Raises TicketMismatch if the ticket has no scores or fewer units, and InvariantError for a
        score that is NaN.
        """
        if self.scores.keys() != self.arrays.keys():
            raise TicketMismatch(
                "ticket: it has no scores to choose units by; use one of a method with scores"
            )
        flat = np.concatenate([self.scores[name].ravel() for name in self.arrays])
        if not 0 <= kept <= flat.size:
            raise TicketMismatch(f"ticket: {kept} units are to be kept of {flat.size}")
        if np.isnan(flat).any():
            raise InvariantError("ticket: a score is NaN; the run diverged, lower its rate")
        keep = np.zeros(flat.size, np.bool_)
        keep[np.argsort(-flat, kind="stable")[:kept]] = True
        ends = np.cumsum([array.size for array in self.arrays.values()])
        parts = np.split(keep, ends[:-1])
        arrays = {
            name: part.reshape(array.shape)
            for (name, array), part in zip(self.arrays.items(), parts, strict=True)
        }
        return replace(self, arrays=arrays)


@dataclass(frozen=True, kw_only=True, slots=True)
class Applied:
    """What `TicketModule.applied` yields."""

    violations: Callable[[Mapping[str, Shard], Mapping[str, Shard]], int]
    """Return how many units should be off and are not, as far as this process can see.

    A run calls it once in each process, after training, and adds up the results; above 0 the run
    fails. The arguments are this process's shards of the backbone's weights, on the CPU: the
    module's own, and the float32 masters (each element belongs to one process). A kind that keeps
    no weights at zero ignores them and reports what it has counted during the run.
    """
    transform: Transform | None = None
    """Change to each batch of training and evaluation, before the network receives it and on the
    network's device. The loss and the score still see the batch as it was. It must depend on the
    batch alone, or a resumed run would differ from an uninterrupted one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Size of a ticket. Shares of two kinds' units cannot be compared; parameters can."""

    kept: int
    """Number of units that the ticket keeps."""
    total: int
    """Number of units that there are."""
    parameters: int
    """Number of the backbone's parameters that take part in a forward pass under the ticket."""
    macs: int | None = None
    """Multiply-accumulate operations of a forward pass of one example, where they are known."""


class TicketModule(Protocol):
    """The functions that the module of a ticket kind has.

    Overlap and its chance level, random tickets (the method `random`, also with `like`) and storage
    are the same for all kinds, because all tickets are named boolean arrays.
    """

    def space(self, backbone: Backbone, pool: str) -> Space:
        """Return the names and shapes of a ticket's arrays, in order of depth.

        The backbone may be on the meta device. `pool` is the study's name of the part of the model
        that can be pruned; a kind that has no use for it ignores it.
        """

    def weight_masks(self, shapes: Space, arrays: Masks) -> Masks:
        """Return masks of the weights that the ticket holds at zero, by the names of the backbone's
        weights, whose `shapes` are given. They are empty for a kind that leaves weights alone.

        A run checks its start weights under these masks, and exports set these weights to zero.
        Raises TicketMismatch if `arrays` do not fit the model.
        """

    def applied(self, net: nn.Module, arrays: Masks) -> AbstractContextManager[Applied]:
        """Put `net`, the backbone, under the ticket until the context exits.

        It is entered before `deepspeed.initialize`, with `net` on its device and holding its start
        weights. Raises TicketMismatch if `arrays` do not fit `net`.
        """

    def budget(self, net: nn.Module, arrays: Masks) -> Budget:
        """Return the size of the backbone `net` under the ticket."""


def kind_module(kind: str) -> TicketModule:
    """Import the module of a ticket kind. Raises PluginError for a kind that is not known here."""
    if kind not in TICKET_KINDS:
        raise PluginError(
            f"ticket: it is of the kind {kind!r}, which is not known here; install the package or "
            "give the file that adds it"
        )
    module: Any = importlib.import_module(TICKET_KINDS[kind].module)
    return module  # type: ignore[no-any-return]


def check_fit(arrays: Masks, space: Space) -> None:
    """Raise TicketMismatch unless each of `arrays` has a name and the shape of the space."""
    for name, array in arrays.items():
        if name not in space:
            raise TicketMismatch(
                f"ticket: the model has no {name!r} to keep; use a ticket of this model"
            )
        if array.shape != tuple(space[name]) or array.dtype != np.bool_:
            raise TicketMismatch(
                f"ticket: {name} is {array.dtype} {array.shape}, the model's is "
                f"{tuple(space[name])}; use a ticket of this model and size"
            )


def check_covers(arrays: Masks, space: Space, pool: str) -> None:
    """Raise TicketMismatch unless `arrays` have all names of the space, and no others."""
    check_fit(arrays, space)
    if arrays.keys() != space.keys():
        raise TicketMismatch(
            f"prune: the ticket covers {len(arrays)} tensors, the pool {pool!r} has "
            f"{len(space)}; use a ticket of the same model and pool"
        )


def shapes_of(arrays: Mapping[str, Tensor] | Masks | Scores) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors or arrays by name."""
    return {name: tuple(array.shape) for name, array in arrays.items()}
