"""Events: what the scheduler is told. Plain data, which the adapter to Ray Tune creates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

ItemEnd: TypeAlias = Literal["complete", "error", "lost", "leased", "outage", "stopped", "idle"]
"""How a work item ended. `error`: the attempt failed. `lost`: a machine of the trial was lost.
`leased`: another run holds the lease of the item. `outage`: the store or the driver did not answer.
`stopped`: the driver sent a command, and the state is saved. `idle`: the session was ended, and
there is no item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemResult:
    """What a worker reports after each work item."""

    end: ItemEnd
    key: str = ""
    committed: Sequence[str] = ()
    """Keys of the item's trials that are in the store now."""
    score: float | None = None
    """Score of the training run in percent."""
    error: str = ""
    repeats: bool = False
    """Whether another attempt would end with the same error (see `failures.repeats`)."""
    broken: bool = False
    """Whether the worker's process must run nothing else."""
    last: bool = False
    """Whether the session ends with this result."""


@dataclass(frozen=True, slots=True)
class SessionRequested:
    """Another session could be started."""

    session: str


@dataclass(frozen=True, slots=True)
class WorkerStarted:
    """The session got its worker."""

    session: str


@dataclass(frozen=True, slots=True)
class WorkerRestarting:
    """The session lost its worker and gets another, which runs the rest of the chunk."""

    session: str


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The node of the session's worker was lost; `SessionEnded` follows."""

    session: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """The session's worker exited for a known cause; `SessionEnded` follows."""

    session: str
    cause: str


@dataclass(frozen=True, slots=True)
class ItemEnded:
    """The session's worker ended a work item, or the wait for one."""

    session: str
    result: ItemResult


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session is over; `failed` if its worker exited before it was released."""

    session: str
    failed: bool = False


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """Another run committed the work item `key`, or its lease ended without that."""

    key: str
    committed: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores of the training runs among `committed`, in percent."""


@dataclass(frozen=True, slots=True)
class StoreOutage:
    """The store does not answer."""

    error: str


@dataclass(frozen=True, slots=True)
class BudgetSpent:
    """The running trials and one more would exceed the budget."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user ends the run."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. It comes in every iteration of Ray Tune's loop."""


Event: TypeAlias = (
    SessionRequested
    | WorkerStarted
    | WorkerRestarting
    | NodeLost
    | WorkerExited
    | ItemEnded
    | SessionEnded
    | LeaseEnded
    | StoreOutage
    | BudgetSpent
    | Interrupted
    | Tick
)
