"""Randomness without state: every draw is a pure function of seeds and a place in the run.

A trial that resumes at step s, or runs in a process that ran others before, therefore needs no
generator state. Only raw Philox output is used: numpy promises that stream for ever, but not
what `Generator.permutation` makes of it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def derive(*parts: str | int) -> int:
    """A seed in [0, 2^63) for `torch.manual_seed`, different for every list of parts."""
    return int.from_bytes(_digest(parts)[:8], "little") >> 1


def stream(*parts: str | int) -> np.random.Philox:
    """A generator of raw 64-bit numbers of its own for every list of parts."""
    return np.random.Philox(key=int.from_bytes(_digest(parts)[:16], "little"))


def permutation(count: int, *parts: str | int) -> NDArray[np.int64]:
    """A random order of 0 .. count - 1; equal 64-bit draws (chance count^2 / 2^65) keep theirs."""
    return np.argsort(stream(*parts).random_raw(count), kind="stable")


class Chance:
    """Draws of one place in a run: the same for the same parts, whatever was drawn elsewhere."""

    def __init__(self, *parts: str | int) -> None:
        self._parts = parts
        self._stream = stream(*parts)

    def outer(self) -> Chance:
        """Fresh draws of the place around this one, named by all parts but the last: of the
        optimizer step that a micro-batch belongs to."""
        return Chance(*self._parts[:-1])

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """In [0, 1), 53 random bits each."""
        raw = self._stream.random_raw(int(np.prod(shape)))
        unit: NDArray[np.float64] = (raw >> np.uint64(11)) * np.float64(2.0**-53)
        return unit.reshape(shape)

    def below(self, high: int, *shape: int) -> NDArray[np.int64]:
        """Whole numbers 0 .. high - 1."""
        return (self.uniform(*shape) * high).astype(np.int64)

    def permutation(self, count: int) -> NDArray[np.int64]:
        return np.argsort(self._stream.random_raw(count), kind="stable")


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """The examples of optimizer step `step` (from 0): epochs are permutations, laid end to end.

    A batch may straddle two epochs; within an epoch every one of the `count` examples comes once.
    """
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // count
    parts = [
        _epoch(count, seed, int(epoch))[places[epochs == epoch] % count]
        for epoch in np.unique(epochs)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return permutation(count, seed, "epoch", epoch)


def _digest(parts: tuple[str | int, ...]) -> bytes:
    return hashlib.sha256("\0".join(map(repr, parts)).encode()).digest()
