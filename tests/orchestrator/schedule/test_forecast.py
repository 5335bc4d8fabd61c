"""The forecast of how long a plan takes on a given number of slots."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan.counts import critical_path
from orchestrator.plan.graph import Plan, Trial
from orchestrator.schedule.forecast import Forecast, forecast
from orchestrator.schedule.frontier import Frontier
from tests.support.sweeps import plan_of, studies, sweep_document


def ten_seconds(trial: Trial) -> float:
    return 10.0 if trial.kind == "train" else 0.0


def forecast_of(plan: Plan, slots: int, **running: float) -> Forecast:
    return forecast(Frontier(plan, cost=ten_seconds), slots, running)


def test_a_chain_takes_its_length_on_any_number_of_slots() -> None:
    plan = plan_of(sweep_document(controls=[]))
    expected = Forecast(wall_s=50.0, busy_s={1: 50.0})
    assert forecast_of(plan, 1) == forecast_of(plan, 8) == expected


def test_chains_and_leaves_fill_the_slots() -> None:
    """4 chains of 5 runs, each with 4 random leaves; dense runs and leaves need no other run."""
    plan = plan_of(sweep_document(seed=[0, 1, 2, 3]))
    assert forecast_of(plan, 1) == Forecast(wall_s=360.0, busy_s={1: 360.0})
    assert forecast_of(plan, 6) == Forecast(wall_s=60.0, busy_s={6: 60.0})
    assert forecast_of(plan, 100) == Forecast(wall_s=50.0, busy_s={20: 10.0, 4: 40.0})
    assert forecast_of(plan, 100).max_running == 20


def test_the_elapsed_time_of_running_trials_is_deducted() -> None:
    plan = plan_of(sweep_document(controls=[]))
    dense = next(iter(plan)).key
    assert forecast_of(plan, 1, **{dense: 4.0}).wall_s == pytest.approx(46.0)
    assert forecast_of(plan, 1, **{dense: 99.0}).wall_s == pytest.approx(40.0)


def test_a_finished_plan_takes_no_time() -> None:
    plan = plan_of(sweep_document())
    finished = Frontier(plan, set(plan.trials), cost=ten_seconds)
    assert forecast(finished, 4) == Forecast(wall_s=0.0, busy_s={})


@settings(max_examples=30)
@given(studies, st.integers(1, 9))
def test_the_forecast_keeps_the_bounds_of_list_scheduling(
    study: dict[str, object], slots: int
) -> None:
    """R. L. Graham (1969): a schedule that leaves no slot idle while work is ready takes at most
    work / slots plus the longest chain. It takes at least the larger of the two."""
    plan = plan_of(sweep_document(**study))
    work = sum(map(ten_seconds, plan))
    chain = 10.0 * critical_path(plan)
    result = forecast_of(plan, slots)
    busy = sum(runs * seconds for runs, seconds in result.busy_s.items())
    assert busy == pytest.approx(work)
    assert max(chain, work / slots) - 1e-6 <= result.wall_s <= work / slots + chain
