"""Small runs of the real model on the task that is shipped, for the tests beside this file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.fingerprint import fingerprint
from trainables.run import Inputs, cut
from trainables.spec import CutSpec, ModelSpec, Recipe, TaskSpec, TrainSpec
from trainables.tasks import TASKS
from trainables.training.engine import Batch, Micro
from trainables.training.sink import Turn

MODEL = ModelSpec(architecture="uniter", size="tiny")
TOTAL = 102_400
RECIPE = Recipe(
    steps=6,
    batch_size=16,
    accumulate=2,
    lr=2e-3,
    dropout=0.1,
    eval_every=2,
    eval_examples=64,
)
CUT = CutSpec(model=MODEL, sparsity=0.5, run="it rides")
MODES: list[dict[str, Any]] = [
    {"precision": "fp32", "zero": 0},
    {"precision": "fp32", "zero": 2},
    {"precision": "bf16", "zero": 1},
]
Masks = dict[str, NDArray[np.bool_]]


def data() -> Path:
    folder = TASKS["easy_vqa"].shipped_data()
    assert folder is not None
    return folder


def spec(**changes: Any) -> TrainSpec:
    task = TaskSpec(name="easy_vqa", data=fingerprint(data()))
    return replace(TrainSpec(model=MODEL, task=task, recipe=RECIPE), **changes)


@dataclass
class Kept:
    """A sink that keeps what it is given, says the same at every turn, and can be killed at its
    n-th checkpoint."""

    kill_at: int = 0
    says: Turn = "go on"
    rewinds: dict[int, bytes] = field(default_factory=dict)
    cuts: dict[str, Masks] = field(default_factory=dict)
    checkpoints: list[bytes] = field(default_factory=list)
    points: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    lives: bool = False

    def rewind(self, step: int, payload: bytes) -> None:
        self.rewinds[step] = payload

    def cut(self, key: str, masks: Mapping[str, NDArray[np.bool_]]) -> None:
        self.cuts[key] = dict(masks)

    def checkpoint(self, payload: bytes) -> None:
        self.checkpoints.append(payload)
        if len(self.checkpoints) == self.kill_at:
            raise KeyboardInterrupt

    def alive(self) -> None:
        self.lives = True

    def turn(self, step: int) -> Turn:
        return "save" if self.kill_at else self.says

    def progress(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, dict(values)))


def inputs(**changes: Any) -> Inputs:
    return replace(Inputs(data=data(), cache=Path("unused")), **changes)


def ticket(sparsity: float = 0.7) -> Masks:
    return cut(CutSpec(model=MODEL, method="random", sparsity=sparsity), inputs())


def evenly(batches: Sequence[Batch]) -> list[Micro]:
    """Micro-batches of a step that count alike."""
    return [Micro(batch, len(batches)) for batch in batches]


def bits(masks: Masks) -> str:
    whole = hashlib.sha256()
    for name, kept in sorted(masks.items()):
        whole.update(name.encode() + np.packbits(kept).tobytes())
    return whole.hexdigest()
