"""The interval between a run's checkpoints, from their cost and the expected loss of workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

INITIAL_COST_S = 5.0
"""Assumed cost of a checkpoint before one was made: a base-size model's 1.3 GB of weights and
moments at 250 MB/s."""


def young_interval_s(cost_s: float, mtbf_s: float) -> float:
    """Return the seconds of work between two checkpoints that lose the least time in total.

    Time is lost to checkpoints that cost `cost_s` each, and to work that is repeated when a worker
    is lost, every `mtbf_s` seconds on average.

    Young, "A first order approximation to the optimum checkpoint interval" (CACM 17, 1974).
    """
    return math.sqrt(2 * cost_s * mtbf_s)


class CheckpointTimer:
    """Decides when one run saves a checkpoint.

    `interval_s` fixes the interval; None derives it from what checkpoints cost in this run.
    """

    def __init__(
        self,
        interval_s: float | None,
        mtbf_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed_interval_s = interval_s
        self._mtbf_s = mtbf_s
        self._clock = clock
        self._requested_at = self._saved_at = clock()
        self._cost_s = INITIAL_COST_S

    @property
    def interval_s(self) -> float:
        if self._fixed_interval_s is not None:
            return self._fixed_interval_s
        return young_interval_s(self._cost_s, self._mtbf_s)

    def due(self) -> bool:
        """Whether to save now; the caller then saves and calls `saved`."""
        self._requested_at = self._clock()
        return self._requested_at - self._saved_at >= self.interval_s

    def saved(self) -> None:
        """Record that a checkpoint is stored; its cost decides when the next one is due."""
        self._saved_at = self._clock()
        self._cost_s = self._saved_at - self._requested_at
