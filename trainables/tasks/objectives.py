"""The loss and the reported metric of each of UNITER's pre-training objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

from trainables.tasks.base import Batch

ALIGNMENT_WEIGHT = 0.1
"""Weight of the word-region alignment in the loss of `itm`, as published."""


@dataclass(frozen=True, slots=True)
class PretrainingObjective:
    targets: str
    """The batch key of the targets; it identifies the objective of a batch."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """Maps the logits of `PretrainingHead` and the targets to the loss."""
    measure: Callable[[Tensor, Tensor], tuple[float, int]]
    """Maps logits and targets to the sum of the metric over the predictions, and their number. The
    metric is an accuracy in percent or a loss."""


def _matching(logits: Tensor, matched: Tensor) -> Tensor:
    """Two-way cross-entropy plus the alignment: transport costs of true pairs minus false pairs."""
    costs = torch.where(matched == 1, logits[:, 2], -logits[:, 2])
    return cross_entropy(logits[:, :2], matched) + ALIGNMENT_WEIGHT * costs.mean()


def _class_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """KL divergence averaged over all elements, not per region, as in the official code: with 1,601
    classes, the loss and its gradients are smaller by that factor."""
    return kl_div(log_softmax(logits, dim=-1), targets, reduction="none").mean()


def _count_correct(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    return 100.0 * int((logits.argmax(dim=-1) == targets).sum()), len(targets)


def _count_correct_matches(logits: Tensor, matched: Tensor) -> tuple[float, int]:
    return _count_correct(logits[:, :2], matched)


def _squared_error(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    return mse_loss(logits.double(), targets.double(), reduction="sum").item(), targets.numel()


def _divergence(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    shares = log_softmax(logits.double(), dim=-1)
    return kl_div(shares, targets.double(), reduction="sum").item(), len(targets)


OBJECTIVES = {
    "itm": PretrainingObjective("matched", _matching, _count_correct_matches),
    "mlm": PretrainingObjective("word_labels", cross_entropy, _count_correct),
    "mrfr": PretrainingObjective("feature_targets", mse_loss, _squared_error),
    "mrc_kl": PretrainingObjective("class_targets", _class_divergence, _divergence),
}


def pretraining_objective(batch: Batch) -> str:
    """Return the name of the batch's objective."""
    return next(name for name, each in OBJECTIVES.items() if each.targets in batch)
