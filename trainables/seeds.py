"""Stateless randomness: every draw is a pure function of the seeds and a position in the run.

A trial that resumes at step s, or that runs in a process after other trials, therefore needs no
generator state. Only raw Philox output is used, because numpy guarantees that this stream never
changes, but not the result of `Generator.permutation`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def derive(*parts: str | int) -> int:
    """Return a seed in [0, 2^63) for `torch.manual_seed`, different for every list of parts."""
    return int.from_bytes(_digest(parts)[:8], "little") >> 1


def stream(*parts: str | int) -> np.random.Philox:
    """Return a generator of raw 64-bit numbers, independent for every list of parts."""
    return np.random.Philox(key=int.from_bytes(_digest(parts)[:16], "little"))


def permutation(count: int, *parts: str | int) -> NDArray[np.int64]:
    """Return a random order of 0 .. count - 1.

    Equal 64-bit draws (probability count^2 / 2^65) stay in ascending order.
    """
    return np.argsort(stream(*parts).random_raw(count), kind="stable")


class Rng:
    """Random draws for one position in a run, independent of those for other positions.

    `parts` name the position from the outside in: a seed, a purpose, a step, and so on.
    """

    def __init__(self, *parts: str | int) -> None:
        self._parts = parts
        self._stream = stream(*parts)

    def parent(self) -> Rng:
        """Return a new generator for the enclosing scope, which drops the last part: for a
        micro-batch, its optimizer step."""
        return Rng(*self._parts[:-1])

    def child(self, *parts: str | int) -> Rng:
        """Return a generator for a position within this one."""
        return Rng(*self._parts, *parts)

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """Return draws in [0, 1) with 53 random bits each."""
        raw = self._stream.random_raw(int(np.prod(shape)))
        values: NDArray[np.float64] = (raw >> np.uint64(11)) * np.float64(2.0**-53)
        return values.reshape(shape)

    def integers(self, high: int, *shape: int) -> NDArray[np.int64]:
        """Return integers from 0 to high - 1."""
        return (self.uniform(*shape) * high).astype(np.int64)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """Return a random order of 0 .. count - 1."""
        return np.argsort(self._stream.random_raw(count), kind="stable")


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Return the examples of optimizer step `step` (from 0).

    Each epoch is a permutation of the `count` examples, and epochs follow each other without a gap,
    so a batch may straddle two of them.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    parts = [
        _epoch(count, seed, int(epoch))[positions[epochs == epoch] % count]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return permutation(count, seed, "epoch", epoch)


def _digest(parts: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256("\0".join(map(repr, parts)).encode()).digest()
