"""What travels to a worker, and what a worker is: the border between driver and trial.

Light on purpose: the driver imports this, and no torch with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from orchestrator.plan.graph import Trial
from orchestrator.store.s3 import StoreAddress

Word: TypeAlias = Literal["go", "drain", "stop"]
"""The driver's to its workers. `drain`: finish the unit in hand and start no other. `stop`: save
its state and return."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Where and how a worker runs; the same for every trial of a sweep."""

    sweep: str
    run: str
    """Names this run of the sweep among others on the same store."""
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
    workers: int
    nodes: int
    stall_s: float
    checkpoint_every_s: float | None
    """None: as follows from the cost of a checkpoint and from `lost_every_s`."""
    lost_every_s: float
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Those of `AWS_VARIABLES` that the driver has. They travel here, and not in a Ray runtime
    environment, which Ray writes into its logs."""


@dataclass(frozen=True, slots=True)
class Work:
    """A unit as a worker gets it: its head, and the members that are still to be committed."""

    head: Trial
    members: tuple[Trial, ...]


Ended: TypeAlias = Literal["whole", "stopped", "elsewhere"]
"""`stopped`: as the driver asked, after saving its state. `elsewhere`: another run is at it."""


@dataclass(slots=True)
class Done:
    """What a worker made of a unit."""

    committed: list[str] = field(default_factory=list)
    score: float | None = None
    ended: Ended = "whole"


class Worker(Protocol):
    """Lives in a warm process and performs units one after another."""

    def perform(self, work: Work) -> Done: ...


Listen: TypeAlias = Callable[[], Word]
"""Says at once what the driver wants of this worker."""
