"""The interface between driver and worker: what is sent to a worker, and what it returns.

It is kept light: the driver imports it, and must not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from orchestrator.plan.graph import Trial
from orchestrator.schedule.commands import WorkerCommand
from orchestrator.store.s3 import StoreAddress
from trainables.user_modules import UserModule


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Where and how a worker runs; the same for every trial of a sweep."""

    sweep: str
    run: str
    """Identifies this run of the sweep among others on the same store."""
    store: StoreAddress
    locations: Mapping[str, str]
    """Fingerprint of data or weights -> path on the workers."""
    cache: str
    """Folder for decoded data on each machine."""
    tracking: str
    """Address of the MLflow server, or empty."""
    threads: int
    """CPU threads of each training process."""
    device: Literal["cpu", "cuda"]
    gpus: float
    """GPUs of each training process; a fraction if trials share a GPU."""
    workers: int
    """Training processes of one trial."""
    nodes: int
    """Machines that these processes are spread over."""
    stall_timeout_s: float
    checkpoint_every_s: float | None
    """None derives it from the cost of a checkpoint and from `mtbf_s`."""
    mtbf_s: float
    modules: tuple[UserModule, ...] = ()
    """The user's own files, whose parts the trials use."""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The `AWS_VARIABLES` that are set for the driver. They are sent here rather than in a Ray
    runtime environment, which Ray writes to its logs."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A work item as sent to a worker: its trial, and the members that are not committed yet."""

    trial: Trial
    members: tuple[Trial, ...]


EndReason: TypeAlias = Literal["complete", "stopped", "leased"]
"""`stopped`: the driver sent the command, and the state is saved. `leased`: another run holds the
lease of the item."""


@dataclass(slots=True)
class WorkResult:
    """The outcome of a work item: the keys of its committed trials, and the score of its training
    run in percent."""

    committed: list[str] = field(default_factory=list)
    score: float | None = None
    end: EndReason = "complete"


class Worker(Protocol):
    """Runs work items one after another in a warm process."""

    def perform(self, assignment: Assignment) -> WorkResult:
        """Run and commit a work item. Raises the errors of `TrialWorker.perform`."""


Poll: TypeAlias = Callable[[], WorkerCommand]
"""Return the driver's current command at once."""
