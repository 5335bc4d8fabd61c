"""Which examples each micro-batch has, and which process trains on them: a pure function of the
seed and the position in the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trainables.distributed.collectives import Peers
from trainables.errors import RecipeError
from trainables.seeds import batch_indices, permutation
from trainables.spec import Recipe
from trainables.tasks.base import Indices, Task

BUCKET_SIZE = 8192
"""Examples that are sorted by length together, as in UNITER's `TokenBucketSampler`."""
SIZE_MULTIPLE = 8
"""Examples that are added to a batch at a time, as in UNITER's `TokenBucketSampler`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch, or one process's part of it."""

    indices: Indices
    number: int
    """Number of the piece within the optimizer step, over all processes."""
    loss_divisor: float
    """Divisor of the piece's mean loss, chosen so that the pieces of a step add up to the mean over
    its micro-batches."""


def assign_pieces(micro_batches: list[Indices], peers: Peers) -> list[Piece]:
    """Return this process's pieces of an optimizer step with the given micro-batches.

    The step sees the same examples for any number of processes. If the number of micro-batches is a
    multiple of the number of processes, each piece is a full micro-batch. Otherwise each
    micro-batch is split into as few pieces as possible. If it has fewer examples than pieces, the
    empty pieces repeat its first example with weight zero: every process must make the same number
    of collective calls.
    """
    split = pieces_per_process(len(micro_batches), peers) * peers.world_size // len(micro_batches)
    pieces: list[Piece] = []
    for micro_batch in micro_batches:
        for indices in np.array_split(micro_batch, split):
            number = len(pieces)
            if len(indices):
                loss_divisor = len(micro_batches) * len(micro_batch) / len(indices)
                pieces.append(Piece(indices, number, loss_divisor))
            else:
                pieces.append(Piece(micro_batch[:1], number, math.inf))
    start, end = peers.share(len(pieces))
    return pieces[start:end]


def pieces_per_process(micro_batches: int, peers: Peers) -> int:
    """Return the number of pieces that each process takes of a step."""
    return micro_batches // math.gcd(micro_batches, peers.world_size)


_Split: TypeAlias = Callable[[Indices, Indices, int], list[Indices]]
"""Split a bucket (B,) of examples, given the lengths (E,) of all examples, into micro-batches for a
limit of tokens."""


def full_batches(bucket: Indices, lengths: Indices, tokens: int) -> list[Indices]:
    """Split `bucket` into batches of at most `tokens` tokens, with padding to each batch's own
    longest example."""
    bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
    batches = []
    first = 0
    for start in range(0, len(bucket), SIZE_MULTIPLE):
        end = min(start + SIZE_MULTIPLE, len(bucket))
        if lengths[bucket[end - 1]] * (end - first) > tokens:
            batches.append(bucket[first:start])
            first = start
    return [*batches, bucket[first:]]


def uniter_batches(bucket: Indices, lengths: Indices, tokens: int) -> list[Indices]:
    """Split `bucket` as UNITER's `TokenBucketSampler` does (`data/sampler.py`).

    It starts with the longest examples and keeps their length when a batch is complete, so that the
    longest example of the bucket sets the size of all batches. The last batch is dropped, even a
    complete one (`droplast`, which is set in training).
    """
    bucket = bucket[np.argsort(-lengths[bucket], kind="stable")]
    size = SIZE_MULTIPLE * int(tokens // (SIZE_MULTIPLE * lengths[bucket[0]]))
    return [bucket[first : first + size] for first in range(0, len(bucket), size)][:-1]


@dataclass(frozen=True, slots=True)
class _TokenBatches:
    lengths: Callable[[Task], Indices]
    """The lengths (E,) that are compared with `Recipe.tokens`."""
    split: _Split


TOKEN_BATCHES: Mapping[str, _TokenBatches] = {
    "full": _TokenBatches(lambda task: task.lengths(), full_batches),
    "uniter": _TokenBatches(lambda task: task.uniter_lengths(), uniter_batches),
}
"""The values of `Recipe.token_batches`."""


class BatchOrder:
    """The micro-batches of a run by optimizer step.

    All processes share one order. In UNITER each GPU shuffles and sorts its own part of the
    examples, and micro-batches that are left at the end of an epoch are added to the first step of
    the next one; here a step may have micro-batches of two epochs.
    """

    @classmethod
    def of(cls, recipe: Recipe, task: Task, seed: int) -> BatchOrder:
        """Return the order of the task's training examples.

        Raises RecipeError if the longest examples do not fit in `recipe.tokens`.
        """
        return cls(recipe, TOKEN_BATCHES[recipe.token_batches].lengths(task), seed)

    def __init__(self, recipe: Recipe, lengths: Indices, seed: int) -> None:
        """Take the `lengths` (E,) of the examples, each in words plus regions or patches.

        Raises RecipeError if the longest examples do not fit in `recipe.tokens`.
        """
        self._recipe = recipe
        self._lengths = lengths
        self._seed = seed
        self._epoch_ends: list[int] = []
        """Number of micro-batches up to the end of each epoch built so far."""
        self._epoch: tuple[int, list[Indices]] = (-1, [])
        if recipe.tokens and lengths.max() * SIZE_MULTIPLE > recipe.tokens:
            raise RecipeError(
                f"recipe.tokens = {recipe.tokens} has no room for {SIZE_MULTIPLE} examples of the "
                f"largest length, {lengths.max()}; use {lengths.max() * SIZE_MULTIPLE} or more"
            )

    def micro_batches(self, step: int) -> list[Indices]:
        """Return the `accumulate` micro-batches of optimizer step `step` (from 0)."""
        recipe = self._recipe
        if not recipe.tokens:
            batch = batch_indices(len(self._lengths), recipe.batch_size, self._seed, step)
            return np.split(batch, recipe.accumulate)
        first = step * recipe.accumulate
        return [self._token_batch(number) for number in range(first, first + recipe.accumulate)]

    def _token_batch(self, number: int) -> Indices:
        """Return micro-batch `number` of the run, counted over all epochs."""
        epoch = 0
        while True:
            if epoch == len(self._epoch_ends):
                before = self._epoch_ends[-1] if self._epoch_ends else 0
                self._epoch_ends.append(before + len(self._epoch_batches(epoch)))
            if number < self._epoch_ends[epoch]:
                break
            epoch += 1
        return self._epoch_batches(epoch)[number - (self._epoch_ends[epoch - 1] if epoch else 0)]

    def _epoch_batches(self, epoch: int) -> list[Indices]:
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._build_epoch(epoch)
        return self._epoch[1]

    def _build_epoch(self, epoch: int) -> list[Indices]:
        shuffled = permutation(len(self._lengths), self._seed, "epoch", epoch)
        split = TOKEN_BATCHES[self._recipe.token_batches].split
        buckets = [
            shuffled[start : start + BUCKET_SIZE] for start in range(0, len(shuffled), BUCKET_SIZE)
        ]
        batches = [
            batch for each in buckets for batch in split(each, self._lengths, self._recipe.tokens)
        ]
        # If each bucket is a single batch, UNITER's sampler drops all of the data.
        batches = batches or buckets
        return [batches[k] for k in permutation(len(batches), self._seed, "batches", epoch)]
