"""Scoring a network on the held-out examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from trainables.tasks.base import Batch, Task

BATCH = 256
"""Examples per forward pass; fixed, so that a score does not depend on the training batch."""


def evaluate(net: nn.Module, task: Task, examples: int, device: str) -> dict[str, float]:
    """The task's scores in percent over the first `examples` held-out ones (0: all).

    Dropout is off and no random number is drawn, so evaluating more often changes no weight.
    """
    net.eval()
    with torch.no_grad():
        batches = _on(task.eval_batches(BATCH, examples), device)
        scores = task.score((net(there).cpu(), batch) for batch, there in batches)
    net.train()
    return scores


def _on(batches: Iterable[Batch], device: str) -> Iterator[tuple[Batch, Batch]]:
    """Each batch, and it on `device`. A tensor that is the very one of the batch before is not
    copied again: retrieval shows a block of images to one text after another."""
    last: Batch = {}
    there: dict[str, Tensor] = {}
    for batch in batches:
        there = {
            name: there[name] if value is last.get(name) else value.to(device)
            for name, value in batch.items()
        }
        last = batch
        yield batch, there
