"""Cost of a run's nodes while it runs, and the decision to stop at the budget.

`Ledger` is pure and adds up samples; `BudgetMeter` feeds it. A node is charged from the sample
before the first one that contains it to the first one that no longer does. What a cloud bills
while a node boots, before Ray sees it, and after the run, is not included.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from statistics import fmean

from orchestrator.cost.ledger import Bill, CostProjection, Ledger
from orchestrator.cost.prices import HEAD_GROUP, PricedProfile
from orchestrator.plan.graph import Trial
from orchestrator.plan.work import CostFunction, work_of
from orchestrator.ray_cluster.node_watch import Node
from orchestrator.schedule.run_events import ChunkEnded, ItemCommitted, ItemStarted, RunEvent
from orchestrator.sweep.config import Placement

NODE_TYPE_LABEL = "ray.io/node-group"
"""Ray's label for the type of a node. The autoscaler and KubeRay set it."""
HEAD_RESOURCE = "node:__internal_head__"


def node_types(nodes: Iterable[Node]) -> dict[str, str]:
    """Map node ids to node types."""
    return {node["NodeID"]: _node_type(node) for node in nodes}


def _node_type(node: Node) -> str:
    unknown = "unknown type"
    name: str = node["Labels"].get(NODE_TYPE_LABEL, unknown)
    return HEAD_GROUP if HEAD_RESOURCE in node["Resources"] else name


class BudgetMeter:
    """Charges the cluster's nodes, and observes the run to determine when its budget is spent.

    `cost` weighs the trials: seconds, or `work_of` until something was measured. `pending` are the
    trials that are left. Measurements of this run correct both.
    """

    def __init__(
        self,
        profile: PricedProfile,
        placement: Placement,
        budget: float | None,
        cost: CostFunction,
        pending: Sequence[Trial],
    ) -> None:
        self._profile = profile
        self._budget = budget
        self._ledger = Ledger()
        seconds_per_cost = 0.0 if cost is work_of else 1.0
        typical_cost = fmean(map(cost, pending)) if pending else 0.0
        self._projection = CostProjection(profile, placement, seconds_per_cost, typical_cost)
        self._changed = True
        """Whether anything has happened since `exhausted` was last computed."""
        self._exhausted = False
        self._lock = threading.Lock()

    def observe_nodes(self, nodes: list[Node]) -> None:
        """Record the nodes that are up.

        The time since the last call is charged to each node that was up then or is up now. With
        1 s between calls, a node is charged at most 2 s too much.
        """
        with self._lock:
            self._ledger.update(node_types(nodes), time.monotonic())
        self._changed = True

    def on_event(self, event: RunEvent) -> None:
        match event:
            case ItemStarted(item=item):
                self._projection.item_started(item, time.monotonic())
                self._changed = True
            case ItemCommitted(item=item):
                self._projection.item_committed(item, time.monotonic())
                self._changed = True
            case ChunkEnded(items=items):
                self._projection.chunk_ended(items)

    def exhausted(self) -> bool:
        """Whether the running trials and one more would exceed the budget. Never reverts."""
        if self._budget is not None and self._changed and not self._exhausted:
            self._changed = False
            total = self.spent() + self._projection.money(time.monotonic())
            self._exhausted = total >= self._budget
        return self._exhausted

    def spent(self) -> float:
        """Cost of the nodes since the first call of `observe_nodes`."""
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
