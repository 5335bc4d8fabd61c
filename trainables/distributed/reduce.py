"""All-reduces over the processes of a trial that DeepSpeed does not make: of gradients at the stage
where it makes none, and of buffers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.distributed.collectives import Peers

BUCKET_ELEMENTS = 1 << 23
"""Elements per all-reduce: 32 MiB of float32."""


def all_reduce_gradients(weights: Iterable[nn.Parameter], peers: Peers) -> None:
    """Replace every gradient by its sum over all processes, which is taken in float32.

    A weight that has no gradient in any process, such as the mask embedding in a task that masks
    nothing, still has none afterwards, and the optimizer skips it. DeepSpeed's own sum would give
    it zeros, and weight decay would move it.
    """
    if peers.world_size == 1:
        return
    bucket: list[nn.Parameter] = []
    size = 0
    for weight in weights:
        bucket.append(weight)
        size += weight.numel()
        if size >= BUCKET_ELEMENTS:
            _all_reduce_bucket(bucket)
            bucket, size = [], 0
    if bucket:
        _all_reduce_bucket(bucket)


def average_buffers(buffers: Iterable[Tensor], peers: Peers) -> None:
    """Replace every floating-point buffer by its mean over all processes, in place.

    In float64 the sum of equal float32 values is exact, so a buffer that is the same everywhere,
    such as a table of positions, keeps its bits. In float32 three processes would change some.
    """
    floats = [each for each in buffers if each.is_floating_point()]
    if peers.world_size == 1 or not floats:
        return
    flat = torch.cat([each.reshape(-1).double() for each in floats])
    dist.all_reduce(flat)
    flat /= peers.world_size
    means = torch.split(flat, [each.numel() for each in floats])
    for buffer, mean in zip(floats, means, strict=True):
        buffer.copy_(mean.view_as(buffer))


def _all_reduce_bucket(bucket: Sequence[nn.Parameter]) -> None:
    has_gradient = [weight.grad is not None for weight in bucket]
    # One message sums the gradients, and counts the processes that have one.
    counts = torch.tensor(has_gradient, dtype=torch.float32, device=bucket[0].device)
    flat = torch.cat([*(_flat(weight) for weight in bucket), counts])
    dist.all_reduce(flat)
    *sums, counts = torch.split(flat, [*(weight.numel() for weight in bucket), len(bucket)])
    for weight, gradient, count in zip(bucket, sums, counts.tolist(), strict=True):
        if count:
            weight.grad = gradient.view_as(weight).to(weight.dtype)


def _flat(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        return torch.zeros_like(weight, dtype=torch.float32).view(-1)
    return weight.grad.view(-1).float()
