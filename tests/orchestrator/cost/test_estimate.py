"""Hours and money as a range, from measured runs, on the cheapest and most expensive nodes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.cost.estimate import Estimate, Range, estimate
from orchestrator.errors import ConfigError
from orchestrator.plan.counts import remaining_runs
from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from orchestrator.sweep.config import Placement
from tests.support.profiles import ON_DEMAND, SPOT, profile
from tests.support.sweeps import plan_of, sweep_document

HOUR_S = 3600.0
RELIABLE = 1e12
"""Seconds between losses of a worker, large enough that checkpoints and losses take no time."""


def measured(plan: Plan, *hours: float, **costs: float) -> dict[str, Record]:
    """Return records of the plan's first runs, of 10 steps and these hours each."""
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
    """Return a plan of 20 chains that share no runs, without controls."""
    schedule = {"rate": 0.2, "levels": levels}
    return plan_of(sweep_document(seed=list(range(20)), schedule=schedule, controls=[]))


def estimate_of(plan: Plan, records: dict[str, Record], **placement: object) -> Estimate:
    values = Placement.model_validate({"mtbf_s": RELIABLE, **placement})
    result = estimate(plan, records, values, profile(SPOT, ON_DEMAND) if values.gpus else None)
    assert result is not None
    return result


def test_without_measured_runs_there_is_no_estimate() -> None:
    assert estimate(wide(), {}, Placement(gpus=1), profile(SPOT)) is None


def test_one_measured_run_gives_a_single_number() -> None:
    """The dense run is done but its ticket is missing: it is replayed, with the 4 other runs."""
    plan = plan_of(sweep_document(controls=[]))
    result = estimate_of(plan, measured(plan, 1.0))
    assert (result.slot_hours.low, result.slot_hours.high) == pytest.approx((5.0, 5.0))
    assert str(result.slot_hours) == "5"
    assert (result.measured_share, result.hardware) == (1.0, ("NVIDIA H200",))
    assert result.gpu_hours is result.wall_hours is result.money is result.currency is None


def test_the_range_leaves_out_the_fastest_and_slowest_tenth() -> None:
    """11 runs of 0.5 to 1.5 h: the fastest and the slowest run do not count."""
    plan = wide()
    records = measured(plan, *(0.5 + 0.1 * n for n in range(11)))
    hours = estimate_of(plan, records).slot_hours
    count = len(remaining_runs(plan, records))
    assert (hours.low, hours.high) == pytest.approx((0.6 * count, 1.4 * count))


def test_the_range_contains_the_mean_even_with_an_outlier() -> None:
    plan = wide()
    records = measured(plan, *[1.0] * 11, 100.0)
    hours = estimate_of(plan, records).slot_hours
    assert hours.high == pytest.approx(111 / 12 * len(remaining_runs(plan, records)))


def test_the_hours_of_an_unmeasured_kind_are_scaled_by_its_work() -> None:
    """An adversarial step costs four plain ones."""
    content = sweep_document(
        recipe=["short", "hard"], controls=[], schedule={"rate": 0.2, "levels": 0}
    )
    content["recipes"]["hard"] = {"steps": 10, "batch_size": 8, "adversary": "text"}
    plan = plan_of(content)
    result = estimate_of(plan, measured(plan, 1.0))
    assert result.slot_hours.high == pytest.approx(4.0)
    assert result.measured_share == 0.0


@pytest.mark.parametrize(
    "changes", [{"eval_every": 1}, {"tokens": 400, "token_batches": "uniter"}], ids=str
)
def test_runs_with_other_evaluations_or_batches_are_another_kind(changes: dict[str, Any]) -> None:
    content = sweep_document(
        recipe=["short", "other"], controls=[], schedule={"rate": 0.2, "levels": 0}
    )
    content["recipes"]["short"] |= {"tokens": changes.get("tokens", 0)}
    content["recipes"]["other"] = content["recipes"]["short"] | changes
    plan = plan_of(content)
    assert estimate_of(plan, measured(plan, 1.0)).measured_share == 0.0


def test_gpu_hours_count_every_worker() -> None:
    plan = wide()
    result = estimate_of(plan, measured(plan, 1.0), gpus=1, workers=2)
    assert result.gpu_hours is not None
    assert result.gpu_hours.low == pytest.approx(2 * result.slot_hours.low)


def test_money_ranges_from_full_cheap_nodes_to_expensive_nodes_with_one_trial() -> None:
    """40 runs of an hour, two in sequence in each of 20 chains, take 2 h on 48 slots of one GPU.

    Low: 40 h on a quarter of a spot node at 4. High: 20 trials at once take the 4 on-demand nodes
    at 12 and one spot node, all up for both hours. The head node at 0.5 is up for 2 h in both.
    """
    plan = wide()
    result = estimate_of(plan, measured(plan, 1.0), gpus=1)
    assert (result.slots, result.currency) == (48, "EUR")
    assert result.wall_hours is not None
    assert result.money is not None
    assert result.wall_hours.low == pytest.approx(2.0)
    assert result.money.low == pytest.approx(40 * 4 / 4 + 2 * 0.5)
    assert result.money.high == pytest.approx(2 * (4 * 12 + 4 + 0.5))


def test_fewer_slots_take_longer_on_fewer_nodes() -> None:
    plan = wide()
    result = estimate_of(plan, measured(plan, 1.0), gpus=1, slots=4)
    assert result.wall_hours is not None
    assert result.money is not None
    assert result.wall_hours.low == pytest.approx(10.0)
    assert result.money.high == pytest.approx(10 * (12 + 0.5))


def test_nodes_that_a_long_chain_leaves_idle_are_released() -> None:
    """16 runs fill 4 on-demand nodes for an hour, then one chain runs alone for 4 more hours."""
    content = sweep_document(seed=[0], controls=[])
    content["studies"]["leaves"] = content["studies"]["main"] | {
        "seed": list(range(1, 16)),
        "tickets": [],
    }
    plan = plan_of(content)
    result = estimate_of(plan, measured(plan, 1.0), gpus=1)
    assert result.money is not None
    assert result.money.high == pytest.approx(4 * 12 + 4 * 12 + 5 * 0.5)


def test_nodes_that_are_always_up_are_paid_for_while_idle() -> None:
    plan = plan_of(sweep_document(controls=[]))
    always_up = profile(SPOT | {"min": 8})
    placement = Placement(gpus=1, mtbf_s=RELIABLE)
    result = estimate(plan, measured(plan, 1.0), placement, always_up)
    assert result is not None
    assert result.money is not None
    assert result.money.low == pytest.approx(5 * (8 * 4 + 0.5))


def test_a_trial_that_fits_on_no_node_is_refused_without_measured_runs_too() -> None:
    with pytest.raises(ConfigError):
        estimate(wide(), {}, Placement(gpus=9), profile(SPOT))


def test_checkpoints_follow_young() -> None:
    """Checkpoints of 2 s, with a loss every 4 h, are made every 240 s. Saving and repeated work
    each take 1/120 of the time, so an hour of work takes an hour and a minute."""
    plan = wide()
    records = measured(plan, 1.0, checkpoints=3.0, checkpoint_seconds=6.0)
    checkpointing = estimate_of(plan, records, mtbf_s=4 * HOUR_S).checkpointing
    assert (checkpointing.cost_s, checkpointing.longest_trial_s) == (2.0, pytest.approx(HOUR_S))
    assert checkpointing.interval_s == pytest.approx(math.sqrt(2 * 2 * 4 * HOUR_S))
    assert checkpointing.overhead_share == checkpointing.repeated_share == pytest.approx(1 / 120)
    hours = estimate_of(plan, records, mtbf_s=4 * HOUR_S).slot_hours
    assert hours.high / hours.low == pytest.approx(61 / 60)


def test_short_trials_make_no_checkpoints_and_repeat_half_on_a_loss() -> None:
    plan = wide()
    checkpointing = estimate_of(
        plan, measured(plan, 0.1), checkpoint_every_s=600.0, mtbf_s=3600.0
    ).checkpointing
    assert checkpointing.cost_s is None
    assert checkpointing.overhead_share == 0.0
    assert checkpointing.repeated_share == pytest.approx(180 / 3600)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0.0, 0.0, "0"), (1.234, 1.2341, "1.23"), (0.5, 12345.6, "0.5 to 12,346")],
)
def test_ranges_are_formatted_briefly(low: float, high: float, text: str) -> None:
    assert str(Range(low=low, high=high)) == text
