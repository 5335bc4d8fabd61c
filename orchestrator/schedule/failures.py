"""What follows the failure of a work item: another attempt, or the end of it.

Errors that may heal are tried again: of the store, of a process or machine of the trial, of memory,
of the operating system. Errors that repeat by nature are not, because batches, masks and start
weights are functions of the spec: a ticket that does not fit, a recipe that cannot be trained,
damaged data, a loss that is not finite, code that cannot use the values that it gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from orchestrator.errors import InputError
from orchestrator.schedule.frontier import WorkItem
from trainables import errors

MAX_NODE_LOSSES = 20
"""Node losses of one item from which on each counts as a failure: the item may be the cause."""

Action: TypeAlias = Literal["retry", "requeue", "give_up"]
"""`retry`: the failure counts, and the item is tried again. `requeue`: the item is tried again, and
nothing counts. `give_up`: the item fails and blocks its descendants."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt at a work item."""

    error: str
    repeats: bool = False
    """Whether another attempt would end with the same error."""
    node_lost: bool = False
    """Whether the worker was lost together with its node."""


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    error: str
    """The error that is shown."""


class FailurePolicy(Protocol):
    def after(self, item: WorkItem, failure: Failure) -> Decision:
        """Decide about an item. Its `failures` are those before this one; its `node_losses` include
        this one."""


@dataclass(frozen=True, slots=True)
class LimitedRetries:
    """Give an item up at its `max_failures`-th failure, or at one that repeats. The loss of a node
    is not a failure before the `MAX_NODE_LOSSES`-th."""

    max_failures: int

    def after(self, item: WorkItem, failure: Failure) -> Decision:
        error = failure.error
        if failure.node_lost:
            if item.node_losses < MAX_NODE_LOSSES:
                return Decision("requeue", error)
            error = f"{item.node_losses} nodes were lost while they ran it"
        if failure.repeats:
            return Decision("give_up", f"{error} (not retried, since it would fail again)")
        last = item.failures + 1 >= self.max_failures
        return Decision("give_up" if last else "retry", error)


def repeats(error: Exception) -> bool:
    """Whether another attempt at a trial would end with the same error; see
    `trainables.errors.repeats`. Ray's errors of a remote call also have the class of their cause,
    and may heal."""
    if isinstance(error, InputError):
        return True
    remote = any(each.__module__.startswith("ray.") for each in type(error).__mro__)
    return not remote and errors.repeats(error)
