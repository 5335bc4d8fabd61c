"""What may start now: a function of the plan and of what has happened to its trials.

Work comes in units: a trial that stands alone, or a training run together with the cuts and rewind
points that ride it. A unit is ready when every trial it needs is committed; a committed run whose
rider is missing is ready again, as a replay. Three strikes end a unit, and block what hangs on it.
Pure, and every operation costs a heap step or less, because a searcher asks at every turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from orchestrator.plan.graph import Plan
from orchestrator.plan.work import Cost, work_of


class State(Enum):
    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"
    FINISHED = "finished"
    FAILED = "failed"
    BLOCKED = "blocked"

    @property
    def settled(self) -> bool:
        """Nothing more will happen to the unit."""
        return self in (State.FINISHED, State.FAILED, State.BLOCKED)


@dataclass(slots=True, eq=False)
class Unit:
    """One piece of work: `head` names it; `members` are the trials it still has to commit."""

    head: str
    model: str
    task: str
    cost: float
    """What the critical path is measured in: seconds, or work (see `costs`)."""
    members: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    """Trials outside the unit that must be committed first and are not yet."""
    children: list[Unit] = field(default_factory=list)
    state: State = State.WAITING
    strikes: int = 0
    losses: int = 0
    """Nodes that died under it."""
    path: float = 0.0
    """Cost of the longest way from here to the end of the plan, itself included."""
    error: str = ""


class Frontier:
    """The state of a run of a plan."""

    def __init__(
        self,
        plan: Plan,
        committed: Iterable[str] = (),
        *,
        strikes: int = 3,
        cost: Cost = work_of,
    ) -> None:
        self._strikes = strikes
        done = set(committed)
        self._unit_of: dict[str, Unit] = {}
        self._waiting_for: dict[str, list[Unit]] = {}
        self._ready: list[tuple[float, int, Unit]] = []
        self._order = 0
        self.units = _units(plan, done, cost)
        for unit in self.units:
            for key in unit.members:
                self._unit_of[key] = unit
        self._link(plan, done)
        for unit in reversed(self.units):
            unit.path = unit.cost + max((child.path for child in unit.children), default=0.0)
        self.counts = dict.fromkeys(State, 0)
        """Units by state."""
        self.counts[State.WAITING] = len(self.units)
        for unit in self.units:
            self._release(unit)

    def _link(self, plan: Plan, done: set[str]) -> None:
        for unit in self.units:
            inside = {unit.head, *unit.members}
            parents = {p for key in inside for p in plan.trials[key].parents} - inside
            unit.needs = parents - done
            for key in unit.needs:
                self._waiting_for.setdefault(key, []).append(unit)
            for parent in {id(u): u for u in (self._unit_of[key] for key in unit.needs)}.values():
                parent.children.append(unit)

    @property
    def settled(self) -> bool:
        """Nothing is left that could still run."""
        return not any(self.counts[state] for state in State if not state.settled)

    def peek(self) -> Unit | None:
        """The ready unit with the longest way behind it: delaying it would delay the end."""
        while self._ready and self._ready[0][2].state is not State.READY:
            heapq.heappop(self._ready)
        return self._ready[0][2] if self._ready else None

    def start(self, units: Sequence[Unit]) -> None:
        """Hand out units, in the order in which one worker will run them."""
        for unit in units:
            assert unit.state in (State.READY, State.WAITING), f"{unit.head} is {unit.state.value}"
            self._move(unit, State.RUNNING)

    def commit(self, key: str) -> None:
        """A trial is in the store. Trials outside the plan's open units are ignored."""
        for waiting in self._waiting_for.pop(key, ()):
            waiting.needs.discard(key)
            self._release(waiting)
        unit = self._unit_of.get(key)
        if unit is None:
            return
        unit.members.discard(key)
        if not unit.members and not unit.state.settled:
            self._move(unit, State.FINISHED)

    def put_back(self, unit: Unit) -> None:
        """A worker ended before it got to the unit: no fault of the unit's."""
        if unit.state is State.RUNNING:
            self._move(unit, State.WAITING)
            self._release(unit)

    def put_off(self, unit: Unit) -> None:
        """Another run is at the unit: it waits until that one has committed it, or has let go."""
        if unit.state is State.RUNNING:
            self._move(unit, State.ELSEWHERE)

    def resume(self, unit: Unit) -> None:
        """The other run has let go of the unit."""
        if unit.state is State.ELSEWHERE:
            self._move(unit, State.WAITING)
            self._release(unit)

    def strike(self, unit: Unit, error: str) -> None:
        """The unit's run failed; it may try again until its strikes are used up."""
        if unit.state is not State.RUNNING:
            return
        unit.strikes += 1
        unit.error = error
        if unit.strikes < self._strikes:
            self.put_back(unit)
            return
        self._move(unit, State.FAILED)
        self._block(unit)

    def unit(self, key: str) -> Unit:
        """The open unit that commits the trial `key`."""
        return self._unit_of[key]

    def _move(self, unit: Unit, state: State) -> None:
        self.counts[unit.state] -= 1
        self.counts[state] += 1
        unit.state = state

    def _release(self, unit: Unit) -> None:
        if unit.state is State.WAITING and not unit.needs:
            self._move(unit, State.READY)
            self._order += 1
            heapq.heappush(self._ready, (-unit.path, self._order, unit))

    def _block(self, failed: Unit) -> None:
        stack = [failed]
        while stack:
            parent = stack.pop()
            for child in parent.children:
                if not child.state.settled and child.needs & parent.members:
                    self._move(child, State.BLOCKED)
                    child.error = f"blocked by {failed.head[:12]}"
                    stack.append(child)


def _units(plan: Plan, done: set[str], cost: Cost) -> list[Unit]:
    """The open work, parents first."""
    units: dict[str, Unit] = {}
    for trial in plan:
        if trial.key in done:
            continue
        head = plan.trials[trial.rides] if trial.rides else trial
        unit = units.get(head.key)
        if unit is None:
            unit = units[head.key] = Unit(head.key, trial.model, trial.task, cost(head))
        unit.members.add(trial.key)
    return list(units.values())
