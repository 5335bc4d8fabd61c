"""Small runs of the real model on the shipped task, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.fingerprint import fingerprint
from trainables.run import RunInputs, prune
from trainables.spec import ModelSpec, PruneSpec, Recipe, TaskSpec, TrainSpec
from trainables.tasks import TASKS
from trainables.tasks.base import Batch
from trainables.tickets.base import Ticket
from trainables.training.engine import MicroBatch
from trainables.training.sink import Action

MODEL = ModelSpec(architecture="uniter", size="tiny")
TOTAL = 102_400
"""Weights in the default pool of `MODEL`."""
RECIPE = Recipe(
    steps=6,
    batch_size=16,
    accumulate=2,
    lr=2e-3,
    dropout=0.1,
    eval_every=2,
    eval_examples=64,
)
PRUNE = PruneSpec(model=MODEL, sparsity=0.5, run="run")
MODES: list[dict[str, Any]] = [
    {"precision": "fp32", "zero": 0},
    {"precision": "fp32", "zero": 2},
    {"precision": "bf16", "zero": 0},
]


def data() -> Path:
    """Return the folder of easy-VQA's data, which its package ships."""
    folder = TASKS["easy_vqa"].shipped_data()
    assert folder is not None
    return folder


def spec(**changes: Any) -> TrainSpec:
    """Return the spec of a dense run of six steps, with `changes`."""
    task = TaskSpec(name="easy_vqa", data=fingerprint(data()))
    return replace(TrainSpec(model=MODEL, task=task, recipe=RECIPE), **changes)


@dataclass
class RecordingSink:
    """A sink that records what it receives, always returns the same action, and can interrupt the
    run at its n-th checkpoint."""

    interrupt_at: int = 0
    action: Action = "continue"
    rewinds: dict[int, bytes] = field(default_factory=dict)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    checkpoints: list[bytes] = field(default_factory=list)
    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    got_heartbeat: bool = False

    def rewind(self, step: int, payload: bytes) -> None:
        self.rewinds[step] = payload

    def ticket(self, key: str, ticket: Ticket) -> None:
        self.tickets[key] = ticket

    def checkpoint(self, payload: bytes) -> None:
        self.checkpoints.append(payload)
        if len(self.checkpoints) == self.interrupt_at:
            raise KeyboardInterrupt

    def heartbeat(self) -> None:
        self.got_heartbeat = True

    def next_action(self, step: int) -> Action:
        return "save" if self.interrupt_at else self.action

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, dict(values)))


def inputs(**changes: Any) -> RunInputs:
    return replace(RunInputs(data=data(), cache=Path("unused")), **changes)


def ticket(sparsity: float = 0.7) -> Ticket:
    """Return a random ticket."""
    return prune(PruneSpec(model=MODEL, method="random", sparsity=sparsity), inputs())


def micro_batches(batches: Sequence[Batch]) -> list[MicroBatch]:
    """Return the micro-batches of a step with equal weights."""
    return [MicroBatch(batch, len(batches)) for batch in batches]


def masks_sha256(ticket: Ticket) -> str:
    digest = hashlib.sha256()
    for name, mask in sorted(ticket.arrays.items()):
        digest.update(name.encode() + np.packbits(mask).tobytes())
    return digest.hexdigest()
