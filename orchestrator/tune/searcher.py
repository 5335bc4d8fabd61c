"""The thin adapter between the frontier and Ray Tune: one Tune trial is a worker's stint.

A stint is one lane after another, for as long as there are any: to end a Tune trial after each lane
costs a process start whenever Tune has nothing else to give the process at that very moment (10 to
155 starts for 300 lanes on 4 slots, in three runs). Ray Tune asks `suggest` and `heed` at every
turn of its loop and reports each unit's end as a result; every decision is the frontier's. Nothing
here is saved or restored: a new run asks the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.tune.search import Searcher

from orchestrator.errors import StoreError
from orchestrator.monitor.observers import Observer
from orchestrator.schedule.batching import next_lane
from orchestrator.schedule.frontier import Frontier, State, Unit
from orchestrator.store.lease_watch import Lookout
from orchestrator.worker.protocol import Word

log = logging.getLogger(__name__)

STINT = "stint"
"""The only key of a Tune config: the name under which its worker is handed lanes. Tune copies and
snapshots configs at a cost per entry, so what is to be done travels apart from them."""
IDLE_S = 10.0
"""How long a worker without anything to do is kept; starting another takes 5 to 20 s."""
OVERDUE_S = 60.0
"""A stint that has waited so long for a worker has no place to start one."""
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
        hand: Callable[[str, list[str] | None], None],
        lookout: Lookout | None = None,
        meter: Meter | None = None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._frontier = frontier
        self._observer = observer
        self._slots = slots
        self._most = most
        self._say = say
        self._hand = hand
        self._lookout = lookout
        self._meter = meter
        self._lanes: dict[str, list[Unit]] = {}
        """What each stint is at, or is to begin with once it has a worker; empty while idle."""
        self._waiting: dict[str, float] = {}
        """Stints without a worker, and since when."""
        self._idle: dict[str, float] = {}
        """Stints whose worker has nothing to do, and since when."""
        self._leaving: set[str] = set()
        """Stints whose worker was told to end them."""
        self._lost: set[str] = set()
        self._causes: dict[str, str] = {}
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
            self._waiting[trial_id] = time.monotonic()
            return {STINT: trial_id}
        # Answering None with nothing to wait for would let Tune poll for ever, in silence.
        waits = self._lanes or self._frontier.counts[State.ELSEWHERE]
        assert waits, f"nothing runs and nothing is ready: {self._frontier.counts}"
        return None

    def heed(self) -> bool:
        """Takes in what has happened outside, and employs who is idle; True once nobody is at work
        any more, or has had time enough to stop."""
        if self._lookout is not None:
            try:
                for news in self._lookout.news():
                    self._hear(news.head, list(news.committed))
            except StoreError as error:
                self.outage = str(error)
        if self.interrupted and self._word != "stop":
            self._deadline = time.monotonic() + STOP_GRACE_S
            self._tell("stop")
        elif self._word == "go" and (self.outage or (self._meter and self._meter.exhausted())):
            self._tell("drain")
        self._employ()
        late = self._word == "stop" and time.monotonic() > self._deadline
        over = self._word != "go" or self._frontier.settled
        return over and (late or len(self._waiting) == len(self._lanes))

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
        return next_lane(self._frontier, slots=self._slots, most=self._most)

    def got_worker(self, trial_id: str) -> None:
        """The stint has got its worker."""
        self._waiting.pop(trial_id, None)
        lane = self._lanes[trial_id]
        if lane and self._word == "go":
            self._begin(trial_id, lane)
        else:
            self._lanes[trial_id] = []
            self._put_back(lane)
            self._idle[trial_id] = time.monotonic()

    def lost_worker(self, trial_id: str) -> None:
        """The stint has lost its worker, and Ray Tune looks for another, which goes on from
        there."""
        self._lanes[trial_id] = self._close(trial_id)
        self._forget(trial_id)
        self._waiting[trial_id] = time.monotonic()
        self._hand(trial_id, None)

    def lost(self, trial_id: str) -> None:
        """The node under the stint died; its end follows."""
        self._lost.add(trial_id)

    def died(self, trial_id: str, cause: str) -> None:
        """Why the stint's process died, where that is known; its end follows."""
        self._causes[trial_id] = cause

    def _employ(self) -> None:
        """Give each idle worker a lane or its leave: when all is over, when there has been nothing
        to do for long, or when a stint waits that could use it, to which Ray Tune passes it on."""
        now = time.monotonic()
        for stint, since in list(self._idle.items()):
            wanted = len(self._waiting) > len(self._leaving)
            if self._word != "go" or self._frontier.settled or (wanted and self._is_overdue(now)):
                self._dismiss(stint)
            elif lane := self._next_lane():
                self._begin(stint, lane)
            elif wanted or now - since > IDLE_S:
                self._dismiss(stint)
            else:
                return  # who comes after it has been idle for less

    def _is_overdue(self, now: float) -> bool:
        """Whether the stint that waits longest should go before what is ready."""
        stint, since = next(iter(self._waiting.items()))
        lane, ready = self._lanes[stint], self._frontier.peek()
        more_urgent = bool(lane) and (ready is None or lane[0].path >= ready.path)
        return more_urgent and now - since > OVERDUE_S

    def _dismiss(self, stint: str) -> None:
        self._idle.pop(stint, None)
        self._leaving.add(stint)
        self._hand(stint, [])

    def _begin(self, stint: str, lane: list[Unit]) -> None:
        self._idle.pop(stint, None)
        self._lanes[stint] = lane
        self._hand(stint, [unit.head for unit in lane])
        self._observer.started(lane)
        self._observer.begun(lane[0])

    def _close(self, stint: str) -> list[Unit]:
        """End the stint's lane; returns what it has left undone."""
        lane, self._lanes[stint] = self._lanes[stint], []
        if lane and stint not in self._waiting:
            self._observer.ended(lane)
        return _undone(lane)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        if result["end"] == "outage":
            self.outage = result["why"]
        lane = _undone(self._lanes[trial_id])
        unit = next((unit for unit in lane if unit.head == result["head"]), None)
        if unit is None:
            return
        for key in result["committed"]:
            self._frontier.commit(key)
        match result["end"]:
            case "whole":
                if unit.state is State.RUNNING:
                    self._strike(unit, "it ended without committing all that it should")
                else:
                    self._observer.committed(unit, result["committed"], result["score"])
                    if follower := next(iter(_undone(lane)), None):
                        self._observer.begun(follower)
                        return
            case "error":
                self._strike(unit, result["why"])
            case "lost":
                self._bereave(unit, result["why"], node=True)
            case "elsewhere":
                self._put_off(unit)
            case "outage" | "stopped":
                self._frontier.put_back(unit)
        self._put_back(self._close(trial_id))
        if result["spent"]:
            self._dismiss(trial_id)
        elif not result["done"]:
            self._idle[trial_id] = time.monotonic()
            self._employ()

    # Tune calls this by keyword: the names are part of its contract.
    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        # The result that ends a stint reaches a searcher only here.
        if result:
            self.on_trial_result(trial_id, result)
        left = self._close(trial_id)
        if error and left:
            cause = self._causes.get(trial_id, "the worker process died")
            self._bereave(left.pop(0), cause, node=trial_id in self._lost)
        self._put_back(left)
        self._forget(trial_id)
        self._waiting.pop(trial_id, None)
        del self._lanes[trial_id]

    def _forget(self, trial_id: str) -> None:
        """What was known of the stint's worker."""
        self._idle.pop(trial_id, None)
        self._causes.pop(trial_id, None)
        self._leaving.discard(trial_id)
        self._lost.discard(trial_id)

    def _put_back(self, lane: list[Unit]) -> None:
        for unit in lane:
            self._frontier.put_back(unit)

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


def _undone(lane: list[Unit]) -> list[Unit]:
    return [unit for unit in lane if unit.state is State.RUNNING]
