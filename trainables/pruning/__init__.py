"""Pruning methods by name. This module imports nothing heavy, because planning reads it too.

To add a method, write a module and add an entry to `PRUNERS` that says what the method needs. All
names are the backbone's own. `space` gives the names and shapes of a ticket's arrays, in order of
depth (`trainables.tickets.base.Space`); the result has exactly these, and is True where a unit is
kept. A method that needs nothing has

    prune(spec: PruneSpec, space, ticket, reference) -> dict[str, NDArray[bool]]

where `ticket` is the ticket within which units are chosen, and `reference` the one whose count in
each array is copied; either may be None. A method that needs weights has

    prune(spec: PruneSpec, weights, ticket, reference) -> dict[str, NDArray[bool]]

where `weights` are the pool's float32 tensors in order of depth, and `ticket` was applied while
they were trained. In a run of several processes, each process holds a shard of every tensor. Rank 0
then gathers the weights and calls `prune`, unless the units are the weights and the module also has

    prune_shards(spec: PruneSpec, weights, ticket, peers: Peers) -> dict[str, NDArray[bool]]

which every process calls with its shards (n,) of the weights and the ticket, and which returns its
shards of the new ticket.

A method with a search of its own has

    searching(backbone: Backbone, spec: TrainSpec) -> context manager
    found(spec: PruneSpec, space, state) -> (dict[str, NDArray[bool]], dict[str, NDArray[float32]])

A training run whose `spec.search` names the method enters `searching` once the start weights are
loaded and the ticket is applied. There the method may register parameters and buffers on the
backbone, which are trained, checkpointed and restored like its weights, and hooks that use them.
Over several processes, floating-point buffers are averaged after each step, and a search that
skips some of the weights in some micro-batches says so (`varies_parameters`).
Whatever else the search draws or remembers must depend on the weights, the batch and torch's
current random stream only, so that a resumed run is the same as an uninterrupted one. The context
yields None, or a function from a training objective to the one that is used instead of it
(`trainables.training.adversary.TrainingObjective`); it can take further passes. At the end, rank 0
calls `found` for each ticket that is wanted, with all tensors of the backbone by name, those of the
method included. It returns the ticket and the scores by which units were chosen, which may be
empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainables.errors import RecipeError, suggest
from trainables.registry import Registry
from trainables.spec import PruneSpec
from trainables.tickets import TICKET_KINDS

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
    """The kinds of tickets that it makes (`trainables.tickets.TICKET_KINDS`), the one that is made
    by default first; empty if it makes all kinds."""
    varies_parameters: bool = False
    """Whether micro-batches of one optimizer step can differ, under the method's search, in which
    weights of the network they use, as `TaskEntry.varies_parameters`."""
    seeded: bool = False
    """Whether it draws from `PruneSpec.seed`. Otherwise the seed stays out of the trial's key."""

    @property
    def default_kind(self) -> str:
        return self.kinds[0] if self.kinds else "weights"


PRUNERS: Registry[PruneMethod] = Registry(
    PruneMethod,
    group="sweepstakes.pruners",
    attribute="PRUNER",
    builtin={
        "magnitude": PruneMethod(module="trainables.pruning.magnitude", needs="weights"),
        "random": PruneMethod(
            module="trainables.pruning.random", needs="nothing", kinds=(), seeded=True
        ),
    },
)


def check_prune(spec: PruneSpec) -> None:
    """Raise RecipeError unless the method makes tickets of this kind from what the spec gives it.

    It needs no more than the spec, so that planning refuses what a worker would refuse.
    """
    method = f"pruning method {spec.method!r}"
    if spec.method not in PRUNERS:
        raise RecipeError(f"{method}: not known; {suggest(spec.method, PRUNERS)}")
    entry = PRUNERS[spec.method]
    if entry.kinds and spec.ticket_kind not in entry.kinds:
        raise RecipeError(
            f"{method}: makes no tickets of the kind {spec.ticket_kind!r}, only "
            f"{', '.join(entry.kinds)}; use another method or kind"
        )
    if spec.ticket_kind not in TICKET_KINDS:
        raise RecipeError(
            f"{method}: makes tickets of the kind {spec.ticket_kind!r}, which is not known here; "
            "install the package or file that adds it"
        )
    if entry.needs in ("trained", "search") and not spec.run:
        what = "the weights at the end of" if entry.needs == "trained" else "its search during"
        raise RecipeError(
            f"{method}: needs {what} a training run, and cannot make a ticket on its own; "
            "use it for tickets that a run produces"
        )
    if entry.needs == "weights" and not spec.run and spec.start is None:
        raise RecipeError(
            f"{method}: needs weights; name a training run or the start weights to rank"
        )


def kept_count(total: int, sparsity: float) -> int:
    """Return how many of `total` units a ticket of the given sparsity keeps."""
    return total - round(total * sparsity)
