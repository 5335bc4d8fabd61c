"""Scoring a network on held-out examples."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor, nn

from trainables.distributed.collectives import SINGLE_PROCESS, Peers
from trainables.tasks.base import Batch, Task
from trainables.training.prefetch import prefetch

BATCH_SIZE = 256
"""Examples per forward pass. It is fixed, so that a score does not depend on the recipe."""
HEARTBEAT_S = 1.0
"""Minimum time between two heartbeats. In a group of processes each one is a message."""


def evaluate(
    net: nn.Module,
    task: Task,
    examples: int,
    device: str,
    *,
    peers: Peers = SINGLE_PROCESS,
    lockstep: bool = False,
    heartbeat: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the task's scores, in percent, over the first `examples` held-out examples (0: all).

    Dropout is off and no random number is drawn, so evaluating more often changes no weight. If
    several processes share the batches, rank 0 gathers all logits and scores them. Set `lockstep`
    if every forward pass needs all processes, as at ZeRO 3. `heartbeat` is called about every
    second, because an evaluation can be long: a retrieval matrix of 1,000 images by 5,000 texts is
    5 million pairs.
    """
    net.eval()
    forward = EvalForward(net, device)
    with torch.no_grad(), closing(prefetch(task.eval_batches(BATCH_SIZE, examples))) as prefetched:
        batches = _with_heartbeat(prefetched, heartbeat)
        if peers.world_size == 1:
            scores = task.score((forward(batch), batch) for batch in batches)
        else:
            gathered = _gathered_logits(forward, batches, peers, lockstep)
            local_scores: dict[str, float] = {}
            if peers.is_first:
                local_scores = task.score(gathered)
            else:
                deque(gathered, maxlen=0)  # take part in the passes; there is nothing to score
            scores = peers.broadcast(local_scores)
    net.train()
    return scores


def _with_heartbeat(batches: Iterable[Batch], heartbeat: Callable[[], None]) -> Iterator[Batch]:
    last = time.monotonic()
    for batch in batches:
        yield batch
        if time.monotonic() - last > HEARTBEAT_S:
            heartbeat()
            last = time.monotonic()


class EvalForward:
    """Computes the logits of a batch, on the CPU.

    A tensor that is the same object as in the previous batch is not copied to the device again:
    retrieval pairs a block of images with one text after another.
    """

    def __init__(self, net: nn.Module, device: str) -> None:
        self._net, self._device = net, device
        self._last: Batch = {}
        self._on_device: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> Tensor:
        self._on_device = {
            name: self._on_device[name] if value is self._last.get(name) else value.to(self._device)
            for name, value in batch.items()
        }
        self._last = batch
        logits: Tensor = self._net(self._on_device)
        return logits.cpu()


def _gathered_logits(
    forward: EvalForward, batches: Iterable[Batch], peers: Peers, lockstep: bool
) -> Iterator[tuple[Tensor, Batch]]:
    """Yield the logits of every batch, in order, at rank 0; nothing elsewhere."""
    iterator = iter(batches)
    while row := list(islice(iterator, peers.world_size)):
        logits = None
        for batch, is_own in forward_passes(row, peers.rank, lockstep):
            out = forward(batch)
            logits = out if is_own else logits
        for gathered, batch in zip(peers.gather(logits), row, strict=False):
            assert gathered is not None
            yield gathered, batch


def forward_passes(row: list[Batch], rank: int, lockstep: bool) -> list[tuple[Batch, bool]]:
    """Return the batches that process `rank` must pass through the network, and whether each is its
    own. `row` has at most one batch per process.

    Batches of different kinds (the objectives of pre-training) use different layers. In lockstep
    all processes must use the same layers, so a process without a batch of some kind takes the
    row's first batch of that kind.
    """
    own = row[rank] if rank < len(row) else None
    if not lockstep:
        return [] if own is None else [(own, True)]
    firsts = {tuple(batch): batch for batch in reversed(row)}
    return [
        (own, True) if own is not None and tuple(own) == kind else (first, False)
        for kind, first in reversed(firsts.items())
    ]
