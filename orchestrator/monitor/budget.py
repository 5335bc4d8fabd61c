"""What the nodes of a run cost as it goes, and when the budget says stop.

`Ledger` adds up samples, and is pure; `Meter` is shown them. A node is paid for from the
sample before the one that first shows it to the first that shows it no more. What a cloud bills
while a node boots, before Ray sees it, and after the run, is not in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from orchestrator.cost.estimate import figure
from orchestrator.cost.prices import HEAD, Profile, offers, price_of
from orchestrator.plan.graph import Trial
from orchestrator.plan.work import Cost, work_of
from orchestrator.ray_cluster.node_watch import Node
from orchestrator.schedule.frontier import Unit
from orchestrator.sweep.config import Placement

NODE_GROUP = "ray.io/node-group"
"""The label under which Ray keeps a node's type; the autoscaler and KubeRay set it."""
HEAD_MARK = "node:__internal_head__"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What a run has cost up to now."""

    currency: str
    money: float
    hours: Mapping[str, float]
    """Node-hours by node type."""
    budget: float | None
    exhausted: bool
    """Whether the budget ended the run."""

    def __str__(self) -> str:
        """`spent 3.41 of 5 USD: 0.52 h of head, 0.731 h of spot`."""
        nodes = ", ".join(f"{figure(hours)} h of {name}" for name, hours in self.hours.items())
        of = "" if self.budget is None else f" of {figure(self.budget)}"
        return f"spent {figure(self.money)}{of} {self.currency}: {nodes}"


def groups(nodes: Iterable[Node]) -> dict[str, str]:
    """Id to node type."""
    return {node["NodeID"]: _group(node) for node in nodes}


def _group(node: Node) -> str:
    unknown = "a type not known"
    group: str = node["Labels"].get(NODE_GROUP, unknown)
    return HEAD if HEAD_MARK in node["Resources"] else group


class Ledger:
    """Node-hours by node type, from samples of who is there."""

    def __init__(self) -> None:
        self.hours: dict[str, float] = {}
        self._nodes: Mapping[str, str] = {}
        self._at: float | None = None

    def see(self, nodes: Mapping[str, str], at: float) -> None:
        """`nodes` (id to type) are up at `at`, seconds of a clock that never goes back."""
        if self._at is not None:
            hours = (at - self._at) / 3600
            for group in {**self._nodes, **nodes}.values():
                self.hours[group] = self.hours.get(group, 0.0) + hours
        self._nodes, self._at = nodes, at

    def money(self, profile: Profile) -> float:
        return sum(hours * price_of(profile, group) for group, hours in self.hours.items())


class Foresight:
    """What the trials in hand, and one more, will still cost.

    A place is priced at the dearest that the profile may give, for a budget is a promise. Times are
    seconds of a clock that never goes back.
    """

    def __init__(
        self, profile: Profile, placement: Placement, pace_s: float, typical: float
    ) -> None:
        """`pace_s` is seconds per unit of `Unit.cost`, 0 as long as nobody knows; `typical` is what
        a unit costs as they come."""
        self._place = offers(profile, placement)[-1].price
        self._head = price_of(profile, HEAD)
        self._pace_s = self._known_s = pace_s
        self._typical = typical
        self._begun: dict[str, tuple[float, Unit]] = {}
        """Head of each unit in hand to when it began."""
        self._ended_s = self._ended_cost = 0.0

    def begun(self, unit: Unit, at: float) -> None:
        self._begun[unit.head] = at, unit

    def committed(self, unit: Unit, at: float) -> None:
        if unit.head in self._begun and unit.cost:
            self._ended_s += at - self._begun[unit.head][0]
            self._ended_cost += unit.cost
            # Never less than was known before: of a unit that went on from a checkpoint, only the
            # rest was seen.
            self._pace_s = max(self._known_s, self._ended_s / self._ended_cost)
        self._begun.pop(unit.head, None)

    def ended(self, lane: list[Unit]) -> None:
        for unit in lane:
            self._begun.pop(unit.head, None)

    def money(self, at: float) -> float:
        """0 as long as nothing was measured, here or before."""
        rests = [unit.cost * self._pace_s - (at - begun) for begun, unit in self._begun.values()]
        rests = [self._pace_s * self._typical, *(rest for rest in rests if rest > 0)]
        return (self._place * sum(rests) + self._head * max(rests)) / 3600


class Meter:
    """Charges the nodes that it is shown, and follows the run as an Observer, to say when its
    budget is spent.

    `cost` is what the run weighs its trials by: seconds, or `work_of` as long as nothing was
    measured; `left` are those to come. What ends in this run corrects either.
    """

    def __init__(
        self,
        profile: Profile,
        placement: Placement,
        budget: float | None,
        cost: Cost,
        left: Sequence[Trial],
    ) -> None:
        self._profile = profile
        self._budget = budget
        self._ledger = Ledger()
        pace_s = 0.0 if cost is work_of else 1.0
        typical = fmean(map(cost, left)) if left else 0.0
        self._foresight = Foresight(profile, placement, pace_s, typical)
        self._news = True
        """Whether anything has happened since `exhausted` was last worked out."""
        self._exhausted = False
        self._lock = threading.Lock()

    def see(self, nodes: list[Node]) -> None:
        """These nodes are up. The time since the last call is charged to whoever was shown then or
        is now, so at 1 s between calls a node pays at most 2 s too much."""
        with self._lock:
            self._ledger.see(groups(nodes), time.monotonic())
        self._news = True

    def started(self, lane: list[Unit]) -> None: ...

    def begun(self, unit: Unit) -> None:
        self._foresight.begun(unit, time.monotonic())
        self._news = True

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        self._foresight.committed(unit, time.monotonic())
        self._news = True

    def failed(self, unit: Unit) -> None:
        """Nothing: the end of its lane follows."""

    def ended(self, lane: list[Unit]) -> None:
        self._foresight.ended(lane)

    def exhausted(self) -> bool:
        """Whether another trial, beside what is in hand, would pass the budget; once so, always."""
        if self._budget is not None and self._news and not self._exhausted:
            self._news = False
            whole = self.spent() + self._foresight.money(time.monotonic())
            self._exhausted = whole >= self._budget
        return self._exhausted

    def spent(self) -> float:
        """Money of the nodes since the first call of `see`."""
        with self._lock:
            return self._ledger.money(self._profile)

    def bill(self) -> Bill:
        with self._lock:
            hours = dict(self._ledger.hours)
            money = self._ledger.money(self._profile)
        return Bill(
            currency=self._profile.currency,
            money=money,
            hours=hours,
            budget=self._budget,
            exhausted=self._exhausted,
        )
