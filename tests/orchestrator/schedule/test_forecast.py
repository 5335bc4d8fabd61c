"""How long a plan takes on so many places."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.counts import critical_path
from orchestrator.plan.graph import Plan, Trial
from orchestrator.schedule.forecast import Forecast, forecast
from orchestrator.schedule.frontier import Frontier
from tests.support.sweeps import document, plan_of, studies


def ten(trial: Trial) -> float:
    return 10.0 if trial.kind == "train" else 0.0


def ahead(plan: Plan, slots: int, **running: float) -> Forecast:
    return forecast(Frontier(plan, cost=ten), slots, running)


def test_a_chain_takes_its_length_however_many_places_there_are() -> None:
    plan = plan_of(document(controls=[]))
    assert ahead(plan, 1) == ahead(plan, 8) == Forecast(wall_s=50.0, busy_s={1: 50.0})


def test_chains_and_leaves_fill_places() -> None:
    """4 chains of 5 runs, of which the first need no other; 4 random leaves each."""
    plan = plan_of(document(seed=[0, 1, 2, 3]))
    assert ahead(plan, 1) == Forecast(wall_s=360.0, busy_s={1: 360.0})
    assert ahead(plan, 6) == Forecast(wall_s=60.0, busy_s={6: 60.0})
    assert ahead(plan, 100) == Forecast(wall_s=50.0, busy_s={20: 10.0, 4: 40.0})
    assert ahead(plan, 100).most == 20


def test_what_is_in_hand_counts_for_what_was_done() -> None:
    plan = plan_of(document(controls=[]))
    dense = next(iter(plan)).key
    assert ahead(plan, 1, **{dense: 4.0}).wall_s == pytest.approx(46.0)
    assert ahead(plan, 1, **{dense: 99.0}).wall_s == pytest.approx(40.0)


def test_nothing_left_takes_no_time() -> None:
    plan = plan_of(document())
    done = Frontier(plan, set(plan.trials), cost=ten)
    assert forecast(done, 4) == Forecast(wall_s=0.0, busy_s={})


@settings(max_examples=30)
@given(studies, st.integers(1, 9))
def test_it_lies_between_no_idle_place_and_a_list_schedules_bound(
    study: dict[str, object], slots: int
) -> None:
    """R. L. Graham (1969): a schedule that leaves no place idle while work is ready takes at most
    work / places plus the longest chain."""
    plan = plan_of(document(**study))
    work = sum(map(ten, plan))
    chain = 10.0 * critical_path(plan)
    found = ahead(plan, slots)
    wall = found.wall_s
    assert sum(runs * seconds for runs, seconds in found.busy_s.items()) == pytest.approx(work)
    assert max(chain, work / slots) - 1e-6 <= wall <= work / slots + chain
