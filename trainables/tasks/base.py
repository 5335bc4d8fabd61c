"""What every task module offers.

A module `trainables.tasks.NAME` has

    open_task(source: Source, spec: TaskSpec, backbone: Backbone) -> Task

the examples in the form that `backbone` reads, with the head, loss and metric. It raises DataError
for data that is missing or malformed, and keeps what it opened for the next trial of the same
process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.models.base import Backbone
from trainables.seeds import Chance

Batch: TypeAlias = Mapping[str, Tensor]
"""The inputs that `Backbone.forward` names, and what the task's head and loss need, on the CPU."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a task's data lies, and where decoded copies of it may be kept for other processes."""

    data: Path
    cache: Path


class Task(Protocol):
    @property
    def num_eval(self) -> int: ...

    @property
    def prior(self) -> float:
        """Score in percent, on the held-out examples, without looking at the image."""

    def lengths(self) -> NDArray[np.int64]:
        """(E,) words and regions or patches of each training example's longest sequence, or
        of all its sequences where a published batch counts them all."""

    def build_head(self, backbone: Backbone) -> nn.Module:
        """`head(encoded, batch)` maps `Encoded` to logits; drawn from torch's current generator.

        Where it shares weights with the backbone it must not register them as its own. Weights of
        other modules, its own parts included, that its `forward` itself reads it lists as `reads`:
        at ZeRO 3 a weight is there only for modules that are known to read it.
        """

    def adopt(self, head: dict[str, Tensor], published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The head's start weights, given a drawn head and the heads of the checkpoint file that
        the run starts from (`Checkpoint.heads`; empty without one)."""

    def train_batch(self, indices: NDArray[np.int64], chance: Chance) -> Batch:
        """Called by a thread of its own, also while another draws from `eval_batches`: neither may
        change the task, use torch's own generator, or write to what it returned before.

        The training examples at `indices`, each 0 to E - 1, in that order; whatever is
        random in them (masking, negatives) is drawn from `chance`, and from `chance.outer()` what
        all micro-batches of an optimizer step share (the pre-training objective)."""

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """The first `examples` held-out examples (0: all), in one order, in batches."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean over the batch."""

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        """Symmetric KL divergence between two predictions, in nats, mean over the batch."""

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Percent: `score`, and the task's break-down, over batches with their logits."""
