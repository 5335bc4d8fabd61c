"""Hours and money as a range: what was measured, on the cheapest and on the dearest nodes."""

from __future__ import annotations

import math

import pytest

from orchestrator.cost.estimate import Estimate, Span, estimate
from orchestrator.errors import ConfigError
from orchestrator.plan.counts import runs_left
from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from orchestrator.sweep.config import Placement
from tests.support.profiles import ON_DEMAND, SPOT, profile
from tests.support.sweeps import document, plan_of

HOUR_S = 3600.0
RELIABLE = 1e12
"""Seconds between losses of a worker, so many that checkpoints and losses take no share."""


def measured(plan: Plan, *hours: float, **costs: float) -> dict[str, Record]:
    """The first runs of the plan as committed, of 10 steps and so many hours each."""
    runs = list(plan.training_runs())[: len(hours)]
    return {
        trial.key: Record(
            key=trial.key,
            kind="train",
            spec={},
            costs={"seconds": HOUR_S * length, "steps": 10.0, **costs},
            environment={"device": "NVIDIA H200"},
        )
        for trial, length in zip(runs, hours, strict=True)
    }


def wide(levels: int = 1) -> Plan:
    """20 chains of their own, without controls."""
    schedule = {"rate": 0.2, "levels": levels}
    return plan_of(document(seed=list(range(20)), schedule=schedule, controls=[]))


def found(plan: Plan, records: dict[str, Record], **placement: object) -> Estimate:
    values = Placement.model_validate({"lost_every_s": RELIABLE, **placement})
    ahead = estimate(plan, records, values, profile(SPOT, ON_DEMAND) if values.gpus else None)
    assert ahead is not None
    return ahead


def test_nothing_is_guessed_before_anything_was_measured() -> None:
    assert estimate(wide(), {}, Placement(gpus=1), profile(SPOT)) is None


def test_one_measured_run_is_low_and_high_in_one() -> None:
    """Dense done, but its cut is missing: it is replayed with the 4 other runs, an hour each."""
    plan = plan_of(document(controls=[]))
    ahead = found(plan, measured(plan, 1.0))
    assert (ahead.slot_hours.low, ahead.slot_hours.high) == pytest.approx((5.0, 5.0))
    assert str(ahead.slot_hours) == "5"
    assert (ahead.measured, ahead.hardware) == (1.0, ("NVIDIA H200",))
    assert ahead.gpu_hours is ahead.wall_hours is ahead.money is ahead.currency is None


def test_the_range_spans_the_paces_that_were_kept() -> None:
    """11 runs of 0.5 to 1.5 h: the fastest and the slowest of them do not count."""
    plan = wide()
    records = measured(plan, *(0.5 + 0.1 * n for n in range(11)))
    hours = found(plan, records).slot_hours
    left = len(runs_left(plan, records))
    assert (hours.low, hours.high) == pytest.approx((0.6 * left, 1.4 * left))


def test_the_mean_lies_within_the_range_whatever_one_run_took() -> None:
    plan = wide()
    records = measured(plan, *[1.0] * 11, 100.0)
    hours = found(plan, records).slot_hours
    assert hours.high == pytest.approx(111 / 12 * len(runs_left(plan, records)))


def test_a_kind_that_was_not_measured_follows_from_its_work() -> None:
    """An adversarial step is four plain ones."""
    content = document(recipe=["short", "hard"], controls=[], schedule={"rate": 0.2, "levels": 0})
    content["recipes"]["hard"] = {"steps": 10, "batch_size": 8, "adversary": "text"}
    plan = plan_of(content)
    ahead = found(plan, measured(plan, 1.0))
    assert ahead.slot_hours.high == pytest.approx(4.0)
    assert ahead.measured == 0.0


def test_gpu_hours_count_every_worker() -> None:
    plan = wide()
    ahead = found(plan, measured(plan, 1.0), gpus=0.5, workers=4)
    assert ahead.gpu_hours is not None
    assert ahead.gpu_hours.low == pytest.approx(2 * ahead.slot_hours.low)


def test_money_from_full_cheap_nodes_to_dear_ones_for_a_trial_each() -> None:
    """40 runs of an hour, two in a row in each of 20 chains: on 48 places of a GPU each, 2 h.

    Low: 40 h of a quarter of a spot node at 4. High: 20 trials at once take the 4 on-demand nodes
    at 12 and one spot node, all up for both hours. The head at 0.5 is up for 2 h in both.
    """
    plan = wide()
    ahead = found(plan, measured(plan, 1.0), gpus=1)
    assert (ahead.slots, ahead.currency) == (48, "EUR")
    assert ahead.wall_hours is not None
    assert ahead.money is not None
    assert ahead.wall_hours.low == pytest.approx(2.0)
    assert ahead.money.low == pytest.approx(40 * 4 / 4 + 2 * 0.5)
    assert ahead.money.high == pytest.approx(2 * (4 * 12 + 4 + 0.5))


def test_fewer_slots_take_longer_on_fewer_nodes() -> None:
    plan = wide()
    ahead = found(plan, measured(plan, 1.0), gpus=1, slots=4)
    assert ahead.wall_hours is not None
    assert ahead.money is not None
    assert ahead.wall_hours.low == pytest.approx(10.0)
    assert ahead.money.high == pytest.approx(10 * (12 + 0.5))


def test_nodes_that_a_long_chain_leaves_idle_are_given_back() -> None:
    """16 runs fill 4 on-demand nodes for an hour; then one chain goes on alone for 4 more."""
    content = document(seed=[0], controls=[])
    content["studies"]["leaves"] = content["studies"]["main"] | {
        "seed": list(range(1, 16)),
        "tickets": [],
    }
    plan = plan_of(content)
    ahead = found(plan, measured(plan, 1.0), gpus=1)
    assert ahead.money is not None
    assert ahead.money.high == pytest.approx(4 * 12 + 4 * 12 + 5 * 0.5)


def test_nodes_that_are_always_up_are_paid_for_idle() -> None:
    plan = plan_of(document(controls=[]))
    standing = profile(SPOT | {"min": 8})
    placement = Placement(gpus=1, lost_every_s=RELIABLE)
    ahead = estimate(plan, measured(plan, 1.0), placement, standing)
    assert ahead is not None
    assert ahead.money is not None
    assert ahead.money.low == pytest.approx(5 * (8 * 4 + 0.5))


def test_a_trial_that_no_node_holds_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError):
        estimate(wide(), {}, Placement(gpus=9), profile(SPOT))


def test_checkpoints_as_young_has_them() -> None:
    """Of 2 s each, with a loss every 4 h: every 240 s, and 1/120 of the time goes into each of
    saving and doing again. An hour then takes an hour and a minute."""
    plan = wide()
    records = measured(plan, 1.0, checkpoints=3.0, checkpoint_seconds=6.0)
    saving = found(plan, records, lost_every_s=4 * HOUR_S).saving
    assert (saving.cost_s, saving.longest_s) == (2.0, pytest.approx(HOUR_S))
    assert saving.period_s == pytest.approx(math.sqrt(2 * 2 * 4 * HOUR_S))
    assert saving.saving == saving.redone == pytest.approx(1 / 120)
    hours = found(plan, records, lost_every_s=4 * HOUR_S).slot_hours
    assert hours.high / hours.low == pytest.approx(61 / 60)


def test_short_trials_make_no_checkpoints_and_lose_half_of_themselves() -> None:
    plan = wide()
    saving = found(plan, measured(plan, 0.1), checkpoint_every_s=600.0, lost_every_s=3600.0).saving
    assert saving.cost_s is None
    assert saving.saving == 0.0
    assert saving.redone == pytest.approx(180 / 3600)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.0, 0.0, "0"), (1.234, 1.2341, "1.23"), (0.5, 12345.6, "0.5 to 12,346")],
)
def test_a_range_reads_short(low: float, high: float, text: str) -> None:
    assert str(Span(low=low, high=high)) == text
