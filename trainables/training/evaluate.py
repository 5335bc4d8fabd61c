"""Scoring a network on the held-out examples."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice

import torch
from torch import Tensor, nn

from trainables.distributed.collectives import ALONE, Peers
from trainables.tasks.base import Batch, Task
from trainables.training.prefetch import ahead

BATCH = 256
"""Examples per forward pass; fixed, so that a score does not depend on the training batch."""
SIGN_S = 1.0
"""Between two signs of life: each travels where a group of processes trains."""


def evaluate(
    net: nn.Module,
    task: Task,
    examples: int,
    device: str,
    *,
    peers: Peers = ALONE,
    in_step: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The task's scores in percent over the first `examples` held-out ones (0: all).

    Dropout is off and no random number is drawn, so evaluating more often changes no weight. Where
    several processes share the batches, the first one scores all their logits, as it would its own;
    `in_step` if every forward pass takes all of them, as at ZeRO 3. `alive` is called every second
    or so: a retrieval matrix of 1,000 images by 5,000 texts is 5 million pairs.
    """
    net.eval()
    forward = Forward(net, device)
    with torch.no_grad(), closing(ahead(task.eval_batches(BATCH, examples))) as made:
        batches = _telling(made, alive)
        if peers.count == 1:
            scores = task.score((forward(batch), batch) for batch in batches)
        else:
            shared = _shared(forward, batches, peers, in_step)
            found: dict[str, float] = {}
            if peers.first:
                found = task.score(shared)
            else:
                deque(shared, maxlen=0)  # takes part, and has nothing to score
            scores = peers.agreed(found)
    net.train()
    return scores


def _telling(batches: Iterable[Batch], alive: Callable[[], None]) -> Iterator[Batch]:
    told = time.monotonic()
    for batch in batches:
        yield batch
        if time.monotonic() - told > SIGN_S:
            alive()
            told = time.monotonic()


class Forward:
    """Logits of a batch, on the CPU. A tensor that is the very one of the batch before is not
    copied to the device again: retrieval shows a block of images to one text after another."""

    def __init__(self, net: nn.Module, device: str) -> None:
        self._net, self._device = net, device
        self._last: Batch = {}
        self._there: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> Tensor:
        self._there = {
            name: self._there[name] if value is self._last.get(name) else value.to(self._device)
            for name, value in batch.items()
        }
        self._last = batch
        logits: Tensor = self._net(self._there)
        return logits.cpu()


def _shared(
    forward: Forward, batches: Iterable[Batch], peers: Peers, in_step: bool
) -> Iterator[tuple[Tensor, Batch]]:
    """Every batch with its logits, in order, at the first process; nothing elsewhere."""
    source = iter(batches)
    while row := list(islice(source, peers.count)):
        logits = None
        for batch, mine in passes(row, peers.rank, in_step):
            out = forward(batch)
            logits = out if mine else logits
        for found, batch in zip(peers.sent_to_first(logits), row, strict=False):
            assert found is not None
            yield found, batch


def passes(row: list[Batch], rank: int, in_step: bool) -> list[tuple[Batch, bool]]:
    """Which batches of `row`, one for each process, this one passes, and whether that is its own.

    Batches of different kinds (the objectives of pre-training) take different layers. In step, all
    go through the same layers, so whoever has no batch of a kind takes the first that there is.
    """
    own = row[rank] if rank < len(row) else None
    if not in_step:
        return [] if own is None else [(own, True)]
    firsts = {tuple(batch): batch for batch in reversed(row)}
    return [
        (own, True) if own is not None and tuple(own) == kind else (first, False)
        for kind, first in reversed(firsts.items())
    ]
