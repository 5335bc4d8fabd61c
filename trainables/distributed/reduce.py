"""Adding up gradients over the processes of a trial, where DeepSpeed does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.distributed.collectives import Peers

BUCKET = 1 << 23
"""Elements that travel at a time: 32 MiB of float32."""


def add_up_gradients(weights: Iterable[nn.Parameter], peers: Peers) -> None:
    """Replaces every gradient by the sum over all processes.

    A weight without a gradient in all of them, such as the mask embedding in a task that masks
    nothing, keeps none, and Adam passes it over; DeepSpeed's own sum would give it zeros, which
    Adam decays.
    """
    if peers.count == 1:
        return
    bucket: list[nn.Parameter] = []
    size = 0
    for weight in weights:
        bucket.append(weight)
        size += weight.numel()
        if size >= BUCKET:
            _add_up(bucket)
            bucket, size = [], 0
    if bucket:
        _add_up(bucket)


def _add_up(bucket: Sequence[nn.Parameter]) -> None:
    there = [weight.grad is not None for weight in bucket]
    flat = torch.cat(
        [*(_flat(weight) for weight in bucket), bucket[0].new_tensor(there)]  # counted alike
    )
    dist.all_reduce(flat)
    *summed, found = torch.split(flat, [*(weight.numel() for weight in bucket), len(bucket)])
    for weight, gradient, holders in zip(bucket, summed, found.tolist(), strict=True):
        if holders:
            weight.grad = gradient.view_as(weight)


def _flat(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        return torch.zeros_like(weight).view(-1)
    return weight.grad.view(-1)
