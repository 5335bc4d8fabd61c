"""Scoring a network on the held-out examples."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainables.tasks.base import Task

BATCH = 256
"""Examples per forward pass; fixed, so that a score does not depend on the training batch."""


def evaluate(net: nn.Module, task: Task, examples: int, device: str) -> dict[str, float]:
    """The task's scores in percent over the first `examples` held-out ones (0: all).

    Dropout is off and no random number is drawn, so evaluating more often changes no weight.
    """
    net.eval()
    with torch.no_grad():
        scores = task.score(
            (net(_on(batch, device)).cpu(), batch) for batch in task.eval_batches(BATCH, examples)
        )
    net.train()
    return scores


def _on(batch: Mapping[str, Tensor], device: str) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in batch.items()}
