"""Which examples each micro-batch has, and which process trains on them: a pure function of the
seed and the position in the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainables.distributed.collectives import Peers
from trainables.errors import RecipeError
from trainables.seeds import batch_indices, permutation
from trainables.spec import Recipe
from trainables.tasks.base import Indices

BUCKET_SIZE = 8192
"""Examples that are sorted by length together, as in UNITER's `TokenBucketSampler`. Unlike there,
the last batch of a bucket is not dropped."""
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


class BatchOrder:
    """The micro-batches of a run by optimizer step."""

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
        batches: list[Indices] = []
        for start in range(0, len(shuffled), BUCKET_SIZE):
            bucket = shuffled[start : start + BUCKET_SIZE]
            bucket = bucket[np.argsort(self._lengths[bucket], kind="stable")]
            batches += _split_by_tokens(bucket, self._lengths[bucket], self._recipe.tokens)
        return [batches[k] for k in permutation(len(batches), self._seed, "batches", epoch)]


def _split_by_tokens(bucket: Indices, lengths: Indices, tokens: int) -> list[Indices]:
    """Split `bucket`, sorted by length, into batches of at most `tokens` tokens, with padding."""
    batches = []
    first = 0
    for start in range(0, len(bucket), SIZE_MULTIPLE):
        end = min(start + SIZE_MULTIPLE, len(bucket))
        if lengths[end - 1] * (end - first) > tokens:
            batches.append(bucket[first:start])
            first = start
    return [*batches, bucket[first:]]
