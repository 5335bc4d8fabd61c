"""What every task module offers.

A module `trainables.tasks.NAME` has `open_task(data, spec, backbone) -> Task`: the examples in the
form that `backbone` reads, with the head, loss and metric. It raises DataError for data that is
missing or malformed, and keeps what it decoded for the next trial of the same process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Batch: TypeAlias = Mapping[str, Tensor]
"""The inputs that `Backbone.forward` names, and what the task's loss needs, on the CPU."""


class Task(Protocol):
    @property
    def num_train(self) -> int: ...

    @property
    def num_eval(self) -> int: ...

    @property
    def prior(self) -> float:
        """Score in percent, on the held-out examples, without looking at the image."""

    def build_head(self, hidden_size: int) -> nn.Module:
        """Maps pooled outputs (B, hidden_size) to logits; drawn from torch's current generator."""

    def train_batch(self, indices: NDArray[np.int64]) -> Batch:
        """The training examples at `indices`, each 0 to num_train - 1, in that order."""

    def eval_batches(self, batch_size: int, examples: int) -> Iterator[Batch]:
        """The first `examples` held-out examples (0: all), in one order, in batches."""

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Mean over the batch."""

    def score(self, scored: Iterable[tuple[Tensor, Batch]]) -> dict[str, float]:
        """Percent: `score`, and the task's break-down, over batches with their logits."""
