"""When a run saves its state: as seldom as the loss of a worker allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

FIRST_GUESS_S = 5.0
"""Of a checkpoint's cost, before one was made: a base-size model's 1.3 GB of weights and moments
at 250 MB/s."""


def best_period_s(cost_s: float, lost_every_s: float) -> float:
    """Seconds of work between two checkpoints that lose least in all: to checkpoints that cost
    `cost_s` each, and to work done again where a worker is lost every `lost_every_s` seconds.

    Young, "A first order approximation to the optimum checkpoint interval" (CACM 17, 1974).
    """
    return math.sqrt(2 * cost_s * lost_every_s)


class Pace:
    """Of one run. `every_s` fixes the period; None follows from what checkpoints cost here."""

    def __init__(
        self,
        every_s: float | None,
        lost_every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = every_s
        self._lost_every_s = lost_every_s
        self._clock = clock
        self._asked = self._saved = clock()
        self._cost_s = FIRST_GUESS_S

    @property
    def period_s(self) -> float:
        if self._every_s is not None:
            return self._every_s
        return best_period_s(self._cost_s, self._lost_every_s)

    def due(self) -> bool:
        """Whether to save now; who is told so saves, and says when it is `saved`."""
        self._asked = self._clock()
        return self._asked - self._saved >= self.period_s

    def saved(self) -> None:
        """A checkpoint is safe: what it cost since it was asked for decides when the next is."""
        self._saved = self._clock()
        self._cost_s = self._saved - self._asked
