"""Cost of a run's nodes so far, and projected cost of its running trials. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cost.estimate import format_number
from orchestrator.cost.prices import HEAD_GROUP, PricedProfile, offers, price_per_hour
from orchestrator.schedule.frontier import WorkItem
from orchestrator.sweep.config import Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What a run has cost so far."""

    currency: str
    money: float
    hours: Mapping[str, float]
    """Node-hours by node type."""
    budget: float | None
    exhausted: bool
    """Whether the budget ended the run."""

    def __str__(self) -> str:
        """`spent 3.41 of 5 USD: 0.52 h of head, 0.731 h of spot`."""
        nodes = ", ".join(
            f"{format_number(hours)} h of {name}" for name, hours in self.hours.items()
        )
        budget = "" if self.budget is None else f" of {format_number(self.budget)}"
        return f"spent {format_number(self.money)}{budget} {self.currency}: {nodes}"


class Ledger:
    """Node-hours by node type, added up from samples of the nodes that are up."""

    def __init__(self) -> None:
        self.hours: dict[str, float] = {}
        self._nodes: Mapping[str, str] = {}
        self._sampled_s: float | None = None

    def update(self, nodes: Mapping[str, str], now: float) -> None:
        """Add a sample: `nodes` (id to type) are up at `now`, seconds of a monotonic clock."""
        if self._sampled_s is not None:
            hours = (now - self._sampled_s) / 3600
            for node_type in {**self._nodes, **nodes}.values():
                self.hours[node_type] = self.hours.get(node_type, 0.0) + hours
        self._nodes, self._sampled_s = nodes, now

    def money(self, profile: PricedProfile) -> float:
        return sum(
            hours * price_per_hour(profile, node_type) for node_type, hours in self.hours.items()
        )


class CostProjection:
    """Projected cost of the running trials plus one more.

    A slot is priced at the most expensive node type of the profile, so that a budget is not
    exceeded. Times are seconds of a monotonic clock.
    """

    def __init__(
        self,
        profile: PricedProfile,
        placement: Placement,
        seconds_per_cost: float,
        typical_cost: float,
    ) -> None:
        """`seconds_per_cost` is seconds per unit of `WorkItem.cost`, 0 while unknown;
        `typical_cost` is the mean cost of the remaining work items."""
        self._slot_price = offers(profile, placement)[-1].slot_price
        self._head_price = price_per_hour(profile, HEAD_GROUP)
        self._seconds_per_cost = self._initial_seconds_per_cost = seconds_per_cost
        self._typical_cost = typical_cost
        self._running: dict[str, tuple[float, WorkItem]] = {}
        """Key of each running work item to its start time."""
        self._ended_s = self._ended_cost = 0.0

    def item_started(self, item: WorkItem, now: float) -> None:
        self._running[item.key] = now, item

    def item_committed(self, item: WorkItem, now: float) -> None:
        if item.key in self._running and item.cost:
            self._ended_s += now - self._running[item.key][0]
            self._ended_cost += item.cost
            # Never below the initial value: of an item that resumed from a checkpoint, only the
            # remainder was timed.
            self._seconds_per_cost = max(
                self._initial_seconds_per_cost, self._ended_s / self._ended_cost
            )
        self._running.pop(item.key, None)

    def chunk_ended(self, chunk: Sequence[WorkItem]) -> None:
        for item in chunk:
            self._running.pop(item.key, None)

    def money(self, now: float) -> float:
        """Return the projected cost; 0 until something was measured, in this run or before."""
        remaining_s = [
            item.cost * self._seconds_per_cost - (now - started)
            for started, item in self._running.values()
        ]
        one_more_s = self._seconds_per_cost * self._typical_cost
        seconds = [one_more_s, *(left for left in remaining_s if left > 0)]
        return (self._slot_price * sum(seconds) + self._head_price * max(seconds)) / 3600
