"""Which examples each micro-batch holds, and which process takes it: a pure function of seed and
place in the run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.distributed.collectives import Peers
from trainables.errors import RecipeError
from trainables.seeds import batch_indices, permutation
from trainables.spec import Recipe

Indices = NDArray[np.int64]

BUCKET, GROUP = 8192, 8
"""Examples that are sorted by length together, and that enter a batch together, as in UNITER's
`TokenBucketSampler`. Unlike there, the last batch of a bucket is kept, not dropped."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch, or one process's part of it."""

    indices: Indices
    place: int
    """Its number within the optimizer step, over all processes."""
    parts: float
    """What its mean loss is divided by, so that the pieces of a step add up to the mean over its
    micro-batches."""


def pieces(micro_batches: list[Indices], peers: Peers) -> list[Piece]:
    """Those of this process, of an optimizer step with these micro-batches.

    The step sees the same examples however many processes there are. Whole micro-batches where
    their number is a multiple of the processes'; else each is split, no further than it takes.
    Where one has too few examples, a process takes its first for nothing: all must do as many
    passes, for they meet in each.
    """
    split = pieces_each(len(micro_batches), peers) * peers.count // len(micro_batches)
    every: list[Piece] = []
    for micro in micro_batches:
        for indices in np.array_split(micro, split):
            parts = len(micro_batches) * len(micro) / len(indices) if len(indices) else math.inf
            every.append(Piece(indices if len(indices) else micro[:1], len(every), parts))
    first, end = peers.even(len(every))
    return every[first:end]


def pieces_each(micro_batches: int, peers: Peers) -> int:
    """How many of them each process takes of a step."""
    return micro_batches // math.gcd(micro_batches, peers.count)


class Order:
    """The micro-batches of a run, by optimizer step."""

    def __init__(self, recipe: Recipe, lengths: Indices, seed: int) -> None:
        """`lengths` (E,): words and regions of each example. RecipeError if one is too long."""
        self._recipe = recipe
        self._lengths = lengths
        self._seed = seed
        self._ends: list[int] = []
        """Micro-batches before the end of each epoch laid out so far."""
        self._epoch: tuple[int, list[Indices]] = (-1, [])
        if recipe.tokens and lengths.max() * GROUP > recipe.tokens:
            raise RecipeError(
                f"recipe.tokens = {recipe.tokens} does not hold {GROUP} examples of the longest"
                f" length, {lengths.max()}; use {lengths.max() * GROUP} or more"
            )

    def micro_batches(self, step: int) -> list[Indices]:
        """Those of optimizer step `step`, from 0; `accumulate` of them."""
        recipe = self._recipe
        if not recipe.tokens:
            all_of = batch_indices(len(self._lengths), recipe.batch_size, self._seed, step)
            return np.split(all_of, recipe.accumulate)
        first = step * recipe.accumulate
        return [self._bucketed(place) for place in range(first, first + recipe.accumulate)]

    def _bucketed(self, place: int) -> Indices:
        epoch = 0
        while True:
            if epoch == len(self._ends):
                before = self._ends[-1] if self._ends else 0
                self._ends.append(before + len(self._laid_out(epoch)))
            if place < self._ends[epoch]:
                break
            epoch += 1
        return self._laid_out(epoch)[place - (self._ends[epoch - 1] if epoch else 0)]

    def _laid_out(self, epoch: int) -> list[Indices]:
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._lay_out(epoch)
        return self._epoch[1]

    def _lay_out(self, epoch: int) -> list[Indices]:
        shuffled = permutation(len(self._lengths), self._seed, "epoch", epoch)
        batches: list[Indices] = []
        for start in range(0, len(shuffled), BUCKET):
            bucket = shuffled[start : start + BUCKET]
            bucket = bucket[np.argsort(self._lengths[bucket], kind="stable")]
            batches += _filled(bucket, self._lengths[bucket], self._recipe.tokens)
        return [batches[k] for k in permutation(len(batches), self._seed, "batches", epoch)]


def _filled(bucket: Indices, lengths: Indices, tokens: int) -> list[Indices]:
    """`bucket`, shortest first, cut into batches of at most `tokens`, padding included."""
    batches = []
    first = 0
    for start in range(0, len(bucket), GROUP):
        end = min(start + GROUP, len(bucket))
        if lengths[end - 1] * (end - first) > tokens:
            batches.append(bucket[first:start])
            first = start
    return [*batches, bucket[first:]]
