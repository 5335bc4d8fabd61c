"""What travels to a worker, and what a worker is: the border between driver and trial.

Light on purpose: the driver imports this, and no torch with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchestrator.plan import Trial
from orchestrator.store.objects import StoreAddress


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Where and how a worker runs; the same for every trial of a sweep."""

    sweep: str
    store: StoreAddress
    locations: Mapping[str, str]
    """Fingerprint of data or weights to its path on the workers."""
    cache: str
    """Folder of each machine for decoded data."""
    tracking: str
    """Address of the MLflow server, or empty."""
    threads: int
    device: Literal["cpu", "cuda"]
    gpus: float
    checkpoint_every_s: float


@dataclass(frozen=True, slots=True)
class Work:
    """A unit as a worker gets it: its head, and the members that are still to be committed."""

    head: Trial
    members: tuple[Trial, ...]


@dataclass(slots=True)
class Done:
    """What a worker made of a unit."""

    committed: list[str] = field(default_factory=list)
    score: float | None = None


class Worker(Protocol):
    """Lives in a warm process and performs units one after another."""

    def perform(self, work: Work) -> Done: ...
    def note_failure(self, trial: Trial, error: str) -> None: ...


def start_worker(context: Context) -> Worker:
    """A worker for this process; imports torch and DeepSpeed."""
    from orchestrator.trial import TrialWorker

    return TrialWorker(context)
