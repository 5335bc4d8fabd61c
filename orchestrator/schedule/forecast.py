"""How a plan would go on from here: a unit begins as soon as a place for it is free. Pure.

It begins what the searcher would, the unit with the longest way behind it, and leaves out lanes and
the start of processes, which vanish beside trials of minutes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from types import MappingProxyType

from orchestrator.schedule.frontier import Frontier, Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    wall_s: float
    """Seconds until the last unit ends."""
    busy_s: Mapping[int, float]
    """Seconds during which so many training runs go on at once."""

    @property
    def most(self) -> int:
        return max(self.busy_s, default=0)


def forecast(
    frontier: Frontier, slots: int, running: Mapping[str, float] = MappingProxyType({})
) -> Forecast:
    """Takes `frontier`, whose costs are in seconds, to its end on `slots` places.

    `running` maps the heads of the units in hand, which take places too, to the seconds since they
    began; these count towards what the units cost.
    """
    hands: list[tuple[float, str, Unit]] = []
    busy_s: dict[int, float] = defaultdict(float)
    now, runs = 0.0, 0

    def begin(unit: Unit, since_s: float) -> None:
        frontier.start([unit])
        heappush(hands, (now + max(0.0, unit.cost - since_s), unit.head, unit))

    for head, since_s in running.items():
        begin(frontier.unit(head), since_s)
        runs += 1
    while True:
        while len(hands) < slots and (ready := frontier.peek()):
            begin(ready, 0.0)
            runs += ready.cost > 0
        if not hands:
            return Forecast(wall_s=now, busy_s=dict(busy_s))
        end, _, ended = heappop(hands)
        if end > now:
            busy_s[runs] += end - now
        now = end
        runs -= ended.cost > 0 or ended.head in running
        for key in tuple(ended.members):
            frontier.commit(key)
