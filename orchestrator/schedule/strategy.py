"""Strategies: which trials of a plan are wanted, given the results so far.

The plan always holds the whole grid, and a strategy says how much of it is needed. What it wants
may grow with each result. Trials that it never wants are skipped: they are neither missing nor
failed, and a later run with another strategy runs them. A strategy never affects a trial key.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from orchestrator.errors import InputError, outside_code
from orchestrator.plan.graph import Plan
from orchestrator.schedule.frontier import Frontier, WorkState
from orchestrator.sweep.config import Sweep
from trainables.registry import Registry

Scores = Mapping[str, float]
"""Score in percent of each committed training run, by trial key."""


class Strategy(Protocol):
    """Decides which trials of a plan run. It must be pure, and fast: it is asked again after every
    result while trials are skipped."""

    def wanted(self, plan: Plan, results: Scores) -> Iterable[str]:
        """Return the keys of the trials that are wanted, committed ones or not.

        What these trials depend on runs too, and so do the tickets and rewind points that a wanted
        run produces. A trial that was wanted once stays wanted.
        """


class AllTrials:
    """The strategy `all`: the whole grid."""

    def wanted(self, plan: Plan, results: Scores) -> Iterable[str]:
        return plan.trials


ALL = AllTrials()


@dataclass(frozen=True, slots=True)
class StrategyEntry:
    """One entry of `STRATEGIES`: `create` makes the strategy of a sweep."""

    create: Callable[[Sweep], Strategy]


STRATEGIES: Registry[StrategyEntry] = Registry(
    StrategyEntry,
    group="sweepstakes.strategies",
    attribute="STRATEGY",
    builtin={"all": StrategyEntry(create=lambda sweep: ALL)},
)
"""What `strategy` in a sweep file may name."""


class StrategyState:
    """The results of a plan so far, and the trials that a strategy wants because of them."""

    def __init__(
        self, plan: Plan, strategy: Strategy = ALL, results: Scores = MappingProxyType({})
    ) -> None:
        self._plan = plan
        self._strategy = strategy
        self._results = dict(results)

    def add(self, results: Scores) -> None:
        self._results.update(results)

    def wanted(self) -> set[str]:
        """Return the keys of the wanted trials.

        Raises:
            InputError: the strategy names a trial that the plan does not have.
        """
        name = type(self._strategy).__name__
        with outside_code(f"strategy {name}"):
            wanted = set(self._strategy.wanted(self._plan, MappingProxyType(self._results)))
        if unknown := wanted - self._plan.trials.keys():
            raise InputError(
                f"strategy {name} wants {min(unknown)[:12]!r},"
                f" which is no trial of {self._plan.name}; return keys of `plan.trials`"
            )
        return wanted


def scores_of(records: Mapping[str, ScoredRecord]) -> dict[str, float]:
    """Return the score of each record that has one, by key."""
    return {key: r.scores["score"] for key, r in records.items() if "score" in r.scores}


class ScoredRecord(Protocol):
    """The part of a committed trial's record that results are read from."""

    @property
    def scores(self) -> Mapping[str, float]: ...


def skipped_trials(
    plan: Plan, committed: Container[str], strategy: Strategy, results: Scores
) -> frozenset[str]:
    """Return the keys of the trials that a run would skip with the results so far."""
    state = StrategyState(plan, strategy, results)
    wanted = state.wanted()
    if len(wanted) == len(plan):
        return frozenset()
    frontier = Frontier(plan, [key for key in plan.trials if key in committed], wanted=wanted)
    skipped = (item for item in frontier.items if item.state is WorkState.SKIPPED)
    return frozenset(key for item in skipped for key in item.members)
