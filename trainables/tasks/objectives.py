"""What each pre-training objective of UNITER minimises, and what is reported of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

from trainables.tasks.base import Batch

ALIGNMENT = 0.1
"""Weight of word-region alignment in the loss of `itm`, as published."""


@dataclass(frozen=True, slots=True)
class Objective:
    targets: str
    """The key by which a batch is known as one of it."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """Of logits and targets; what `PretrainingHead` gives for them."""
    measure: Callable[[Tensor, Tensor], tuple[float, int]]
    """The sum over what was predicted, and its number: in percent points, or of a loss."""


def _matching(logits: Tensor, matched: Tensor) -> Tensor:
    """Two-way cross-entropy, and the alignment: costs of true pairs minus those of false ones."""
    costs = torch.where(matched == 1, logits[:, 2], -logits[:, 2])
    return cross_entropy(logits[:, :2], matched) + ALIGNMENT * costs.mean()


def _class_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all elements, not per region, as the official code has it: with 1,601 classes the
    loss and its gradients are that much smaller."""
    return kl_div(log_softmax(logits, dim=-1), targets, reduction="none").mean()


def _right(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    return 100.0 * int((logits.argmax(dim=-1) == targets).sum()), len(targets)


def _matched_right(logits: Tensor, matched: Tensor) -> tuple[float, int]:
    return _right(logits[:, :2], matched)


def _squared_error(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    return mse_loss(logits.double(), targets.double(), reduction="sum").item(), targets.numel()


def _divergence(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    shares = log_softmax(logits.double(), dim=-1)
    return kl_div(shares, targets.double(), reduction="sum").item(), len(targets)


OBJECTIVES = {
    "itm": Objective("matched", _matching, _matched_right),
    "mlm": Objective("word_labels", cross_entropy, _right),
    "mrfr": Objective("feature_targets", mse_loss, _squared_error),
    "mrc_kl": Objective("class_targets", _class_divergence, _divergence),
}


def objective_of(batch: Batch) -> str:
    return next(name for name, each in OBJECTIVES.items() if each.targets in batch)
