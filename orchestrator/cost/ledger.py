"""What the nodes of a run cost as it goes, and what the running trials will still cost. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.cost.estimate import figure
from orchestrator.cost.prices import HEAD, Profile, offers, price_of
from orchestrator.schedule.frontier import Unit
from orchestrator.sweep.config import Placement


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
