"""Draws one at a time, from a stream of their own for every list of seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.seeds import Chance

_BLOCK = 4096
Item = TypeVar("Item")


class Dice:
    def __init__(self, *parts: str | int) -> None:
        self._chance = Chance(*parts)
        self._left: list[float] = []

    def unit(self) -> float:
        """In [0, 1)."""
        if not self._left:
            self._left = self._chance.uniform(_BLOCK).tolist()
        return self._left.pop()

    def below(self, high: int) -> int:
        return int(self.unit() * high)

    def chance(self, share: float) -> bool:
        return self.unit() < share

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def pick(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` of them in random order, none twice; fewer where there are fewer."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(min(count, len(pool)))]


def normal(chance: Chance, *shape: int) -> NDArray[np.float64]:
    """Standard normal draws (Box and Muller 1958)."""
    radius = np.sqrt(-2 * np.log1p(-chance.uniform(*shape)))
    drawn: NDArray[np.float64] = radius * np.cos(2 * np.pi * chance.uniform(*shape))
    return drawn
