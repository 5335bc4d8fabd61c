"""What the nodes of a run cost as it goes, and when the budget says stop.

`Ledger` adds up samples, and is pure; `Meter` is shown them. A node is paid for from the
sample before the one that first shows it to the first that shows it no more. What a cloud bills
while a node boots, before Ray sees it, and after the run, is not in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from statistics import fmean

from orchestrator.cost.ledger import Bill, Foresight, Ledger
from orchestrator.cost.prices import HEAD, Profile
from orchestrator.plan.graph import Trial
from orchestrator.plan.work import Cost, work_of
from orchestrator.ray_cluster.node_watch import Node
from orchestrator.schedule.frontier import Unit
from orchestrator.sweep.config import Placement

NODE_GROUP = "ray.io/node-group"
"""The label under which Ray keeps a node's type; the autoscaler and KubeRay set it."""
HEAD_MARK = "node:__internal_head__"


def groups(nodes: Iterable[Node]) -> dict[str, str]:
    """Id to node type."""
    return {node["NodeID"]: _group(node) for node in nodes}


def _group(node: Node) -> str:
    unknown = "a type not known"
    group: str = node["Labels"].get(NODE_GROUP, unknown)
    return HEAD if HEAD_MARK in node["Resources"] else group


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
