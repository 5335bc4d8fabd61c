"""Draw random values one at a time, from a separate stream for each list of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.seeds import Rng

_BLOCK = 4096
"""Numbers that are drawn at once, because single draws from the stream are slow."""
_T = TypeVar("_T")


class SceneRng:
    """Draws single numbers and items; `parts` (the seeds) name the stream."""

    def __init__(self, *parts: str | int) -> None:
        self._rng = Rng(*parts)
        self._buffer: list[float] = []

    def unit(self) -> float:
        """Draw from [0, 1)."""
        if not self._buffer:
            self._buffer = self._rng.uniform(_BLOCK).tolist()
        return self._buffer.pop()

    def below(self, high: int) -> int:
        """Draw an integer from 0 to high - 1."""
        return int(self.unit() * high)

    def happens(self, probability: float) -> bool:
        return self.unit() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def pick(self, items: Sequence[_T]) -> _T:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[_T], count: int) -> list[_T]:
        """Draw `count` items without replacement, in random order; all if there are fewer."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(min(count, len(pool)))]


def normal(rng: Rng, *shape: int) -> NDArray[np.float64]:
    """Draw from the standard normal distribution (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log1p(-rng.uniform(*shape)))
    drawn: NDArray[np.float64] = radius * np.cos(2 * np.pi * rng.uniform(*shape))
    return drawn
