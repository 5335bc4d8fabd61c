"""The thin adapter between the frontier and Ray Tune: one Tune trial is one lane.

Ray Tune asks `suggest` and `heed` at every turn of its loop and reports each unit's end as a
result; every decision is the frontier's. Nothing here is saved or restored: a new run asks the
store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from orchestrator.elsewhere import Lookout
from orchestrator.frontier import Frontier, State, Unit
from orchestrator.lanes import next_lane
from orchestrator.observers import Observer
from orchestrator.work import Word

log = logging.getLogger(__name__)

LANE = "lane"
"""The only key of a Tune config: the heads of the lane's units. Tune copies and snapshots configs
at a cost per entry, so specs travel apart from it."""
STOP_GRACE_S = 100.0
"""How long running trials may take to save their state; `ray job stop` is told to wait 120 s."""
MOST_LOSSES = 20
"""Nodes that may die under a unit before that counts against it: it may be what kills them."""


class Meter(Protocol):
    """Asked at every turn of Ray Tune's loop, so it must return at once."""

    def exhausted(self) -> bool:
        """Whether the budget is spent."""


class PlanSearcher(Searcher):
    def __init__(
        self,
        frontier: Frontier,
        observer: Observer,
        *,
        slots: int,
        most: int,
        say: Callable[[Word], None],
        lookout: Lookout | None = None,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._frontier = frontier
        self._observer = observer
        self._slots = slots
        self._most = most
        self._say = say
        self._lookout = lookout
        self._meter = meter
        self._lanes: dict[str, list[Unit]] = {}
        self._running: set[str] = set()
        self._lost: set[str] = set()
        self._causes: dict[str, str] = {}
        self._ended = 0
        self._seconds = 0.0
        self._word: Word = "go"
        self._deadline = 0.0
        self.interrupted = False
        """Set from outside, at any time, to end the run: trials save their state."""
        self.outage = ""
        """Why no more lanes are handed out; empty as long as the store answers."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for `Tuner.restore`, which we never use."""
        return {}

    @property
    def exhausted(self) -> bool:
        """Whether the budget ended the run."""
        return self._word == "drain" and not self.outage

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        self.heed()
        if self._frontier.settled or self._word != "go":
            return Searcher.FINISHED
        lane = self._next_lane()
        if lane:
            self._lanes[trial_id] = lane
            return {LANE: [unit.head for unit in lane]}
        # Answering None with nothing to wait for would let Tune poll for ever, in silence.
        waits = self._lanes or self._frontier.counts[State.ELSEWHERE]
        assert waits, f"nothing runs and nothing is ready: {self._frontier.counts}"
        return None

    def heed(self) -> bool:
        """Takes in what has happened outside; True once there is nothing left to wait for, though
        not everything is done."""
        if self._lookout is not None:
            for news in self._lookout.news():
                self._hear(news.head, list(news.committed))
        if self.interrupted and self._word != "stop":
            self._deadline = time.monotonic() + STOP_GRACE_S
            self._tell("stop")
        elif self._word == "go" and (self.outage or (self._meter and self._meter.exhausted())):
            self._tell("drain")
        late = self._word == "stop" and time.monotonic() > self._deadline
        return self._word != "go" and (late or not self._running)

    def _tell(self, word: Word) -> None:
        self._word = word
        self._say(word)

    def _hear(self, head: str, committed: list[str]) -> None:
        """Another run has done, or left, the unit."""
        unit = self._frontier.unit(head)
        for key in committed:
            self._frontier.commit(key)
        self._frontier.resume(unit)
        if unit.state is State.FINISHED:
            self._observer.committed(unit, committed, None)

    def _next_lane(self) -> list[Unit]:
        pace = self._seconds / self._ended if self._ended else None
        return next_lane(self._frontier, slots=self._slots, most=self._most, pace_s=pace)

    def got_worker(self, trial_id: str) -> None:
        """The lane has got its worker."""
        lane = self._open(trial_id)
        if lane:
            self._running.add(trial_id)
            self._observer.started(lane)
            self._observer.begun(lane[0])

    def lost_worker(self, trial_id: str) -> None:
        """The lane has lost its worker, and Ray Tune looks for another."""
        if trial_id in self._running:
            self._running.discard(trial_id)
            self._observer.ended(self._lanes[trial_id])

    def _open(self, trial_id: str) -> list[Unit]:
        """What the lane has yet to do; after the loss of a worker, not all of it."""
        return [unit for unit in self._lanes.get(trial_id, []) if unit.state is State.RUNNING]

    def lost(self, trial_id: str) -> None:
        """The node under the lane died; its end follows."""
        self._lost.add(trial_id)

    def died(self, trial_id: str, cause: str) -> None:
        """Why the lane's process died, where that is known; its end follows."""
        self._causes[trial_id] = cause

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        lane = self._lanes.get(trial_id, [])
        unit = next((unit for unit in lane if unit.head == result.get("head")), None)
        if unit is None or unit.state is not State.RUNNING:
            return  # done already, by the lane's first worker
        self._ended += 1
        self._seconds += result["time_this_iter_s"]
        for key in result["committed"]:
            self._frontier.commit(key)
        match result["end"]:
            case "whole":
                self._observer.committed(unit, result["committed"], result.get("score"))
                for follower in self._open(trial_id)[:1]:
                    self._observer.begun(follower)
            case "error":
                self._strike(unit, result["why"])
            case "outage":
                self.outage = result["why"]
                self._frontier.put_back(unit)
            case "lost":
                self._bereave(unit, result["why"], node=True)
            case "elsewhere":
                self._put_off(unit)
            case "stopped":
                self._frontier.put_back(unit)

    # Tune calls this by keyword: the names are part of its contract.
    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        # The result that ends a lane reaches a searcher only here.
        if result:
            self.on_trial_result(trial_id, result)
        left = self._open(trial_id)
        lane = self._lanes.pop(trial_id, [])
        if error and left:
            cause = self._causes.pop(trial_id, "the worker process died")
            self._bereave(left.pop(0), cause, node=trial_id in self._lost)
        for unit in left:
            self._frontier.put_back(unit)
        if trial_id in self._running:
            self._running.discard(trial_id)
            self._observer.ended(lane)

    def _put_off(self, unit: Unit) -> None:
        self._frontier.put_off(unit)
        if self._lookout is not None:
            self._lookout.follow(unit.head, unit.members)

    def _bereave(self, unit: Unit, cause: str, *, node: bool) -> None:
        """The worker of a unit is gone, alone or with its node."""
        unit.losses += node
        if not node:
            self._strike(unit, cause)
        elif unit.losses < MOST_LOSSES:
            self._frontier.put_back(unit)
        else:
            self._strike(unit, f"{unit.losses} nodes died under it")

    def _strike(self, unit: Unit, error: str) -> None:
        self._frontier.strike(unit, error)
        if unit.state is State.FAILED:
            self._observer.failed(unit)
        else:
            log.warning("trial %s: %s; it is tried again", unit.head[:12], error)
