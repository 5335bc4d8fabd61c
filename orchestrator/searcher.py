"""The thin adapter between the frontier and Ray Tune: one Tune trial is one lane.

Ray Tune asks `suggest` at every turn of its loop and reports each unit's end as a result; every
decision is the frontier's. Nothing here is saved or restored: a new run asks the store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from orchestrator.frontier import Frontier, State, Unit
from orchestrator.lanes import next_lane

log = logging.getLogger(__name__)

LANE = "lane"
"""The only key of a Tune config: the heads of the lane's units. Tune copies and snapshots configs
at a cost per entry, so specs travel apart from it."""


class Observer(Protocol):
    """Told what happens, as it happens; must return at once."""

    def started(self, lane: list[Unit]) -> None: ...
    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None: ...
    def failed(self, unit: Unit) -> None: ...


class PlanSearcher(Searcher):
    def __init__(self, frontier: Frontier, observer: Observer, *, slots: int, most: int) -> None:
        super().__init__(metric="score", mode="max")
        self._frontier = frontier
        self._observer = observer
        self._slots = slots
        self._most = most
        self._lanes: dict[str, list[Unit]] = {}
        self._ended = 0
        self._seconds = 0.0
        self.outage = ""
        """Why no more lanes are handed out; empty as long as the store answers."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for `Tuner.restore`, which we never use."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if self._frontier.settled:
            return Searcher.FINISHED
        lane = [] if self.outage else self._next_lane()
        if lane:
            self._lanes[trial_id] = lane
            self._observer.started(lane)
            return {LANE: [unit.head for unit in lane]}
        if self._lanes:
            return None
        # Answering None with nothing running would let Tune poll for ever, in silence.
        assert self.outage, f"nothing runs and nothing is ready: {self._frontier.counts}"
        return Searcher.FINISHED

    def _next_lane(self) -> list[Unit]:
        pace = self._seconds / self._ended if self._ended else None
        return next_lane(self._frontier, slots=self._slots, most=self._most, pace_s=pace)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        lane = self._lanes.get(trial_id, [])
        unit = next((unit for unit in lane if unit.head == result.get("head")), None)
        if unit is None:
            return
        self._ended += 1
        self._seconds += result["time_this_iter_s"]
        for key in result["committed"]:
            self._frontier.commit(key)
        if result.get("outage"):
            self.outage = result["outage"]
            self._frontier.put_back(unit)
        elif result.get("error"):
            self._strike(unit, result["error"])
        else:
            self._observer.committed(unit, result["committed"], result.get("score"))

    # Tune calls this by keyword: the names are part of its contract.
    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        # The result that ends a lane reaches a searcher only here.
        if result:
            self.on_trial_result(trial_id, result)
        left = [u for u in self._lanes.pop(trial_id, []) if u.state is State.RUNNING]
        for unit in left[1:] if error else left:
            self._frontier.put_back(unit)
        if error and left:
            self._strike(left[0], "the worker process died")

    def _strike(self, unit: Unit, error: str) -> None:
        self._frontier.strike(unit, error)
        if unit.state is State.FAILED:
            self._observer.failed(unit)
        else:
            log.warning("trial %s: %s; it is tried again", unit.head[:12], error)
