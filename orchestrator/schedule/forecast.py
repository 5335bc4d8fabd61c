"""Simulate the rest of a plan: each work item starts as soon as a slot is free. Pure.

Items start in the searcher's order, longest remaining path first. Chunks and process starts are
left out: they are negligible if trials take minutes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from types import MappingProxyType

from orchestrator.schedule.frontier import Frontier, WorkItem


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    wall_s: float
    """Seconds until the last item ends."""
    busy_s: Mapping[int, float]
    """Number of concurrent training runs -> seconds during which that many run."""

    @property
    def max_running(self) -> int:
        """The largest number of concurrent training runs."""
        return max(self.busy_s, default=0)


def forecast(
    frontier: Frontier, slots: int, running: Mapping[str, float] = MappingProxyType({})
) -> Forecast:
    """Advance `frontier`, whose costs are in seconds, to its end on `slots` slots.

    `running` maps the keys of running items, which take slots too, to the seconds since they
    started; these seconds are deducted from the items' costs.
    """
    ends: list[tuple[float, str, WorkItem]] = []
    busy_s: dict[int, float] = defaultdict(float)
    now, runs = 0.0, 0

    def start(item: WorkItem, elapsed_s: float) -> None:
        frontier.start([item])
        heappush(ends, (now + max(0.0, item.cost - elapsed_s), item.key, item))

    for key, elapsed_s in running.items():
        start(frontier.item(key), elapsed_s)
        runs += 1
    while True:
        while len(ends) < slots and (ready := frontier.peek()):
            start(ready, 0.0)
            runs += ready.cost > 0
        if not ends:
            return Forecast(wall_s=now, busy_s=dict(busy_s))
        end, _, finished = heappop(ends)
        if end > now:
            busy_s[runs] += end - now
        now = end
        runs -= finished.cost > 0 or finished.key in running
        for trial_key in tuple(finished.members):
            frontier.commit(trial_key)
