"""Commands: what the scheduler decides. Plain data, which the adapter to Ray Tune carries out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from orchestrator.schedule.run_events import RunEvent

WorkerCommand: TypeAlias = Literal["continue", "drain", "stop"]
"""What all workers are sent. `drain`: finish the current work item and start no other. `stop`: save
the state and return."""


@dataclass(frozen=True, slots=True)
class StartSession:
    """Start the requested session: request a worker for it. Without this command and without
    `Finish`, the request is to be repeated later."""

    session: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Start no session any more."""


@dataclass(frozen=True, slots=True)
class AssignChunk:
    """Give the session's worker its next chunk, as keys of work items."""

    session: str
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class WithdrawChunk:
    """Take back the chunk of a session whose worker was lost."""

    session: str


@dataclass(frozen=True, slots=True)
class ReleaseWorker:
    """End the session once its worker asks for the next chunk."""

    session: str


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Send a command to all workers."""

    command: WorkerCommand


@dataclass(frozen=True, slots=True)
class WatchLease:
    """Watch a work item that another run holds the lease of, until `LeaseEnded`."""

    key: str
    trials: Sequence[str]
    """Keys of the trials that the item has yet to commit."""


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the observers."""

    event: RunEvent


@dataclass(frozen=True, slots=True)
class EndRun:
    """End the run: no worker is active any more, or the time to stop is over."""


Command: TypeAlias = (
    StartSession
    | Finish
    | AssignChunk
    | WithdrawChunk
    | ReleaseWorker
    | SendCommand
    | WatchLease
    | Notify
    | EndRun
)
