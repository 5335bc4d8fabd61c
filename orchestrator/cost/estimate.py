"""Estimate what is left of a sweep in hours and money, as a range. Pure.

Low: every trial runs at the speed of the fastest tenth of its kind, on full nodes of the cheapest
type. High: every trial runs at the speed of the slowest tenth, plus the cost of checkpoints and of
work that is repeated when a worker is lost; trials run on the most expensive nodes, one trial per
node while there are no more trials than nodes.
Trials are measured from their first step to their score. The start of processes, and the time that
nodes take to boot or to be released, are not included.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cost import prices
from orchestrator.cost.checkpointing import INITIAL_COST_S, young_interval_s
from orchestrator.cost.prices import HEAD_GROUP, PricedProfile
from orchestrator.plan.counts import remaining_runs
from orchestrator.plan.graph import Plan, Trial
from orchestrator.plan.work import (
    MeasuredRecord,
    Throughput,
    measure_throughput,
    median_checkpoint_s,
)
from orchestrator.schedule.forecast import Forecast, forecast
from orchestrator.schedule.frontier import Frontier
from orchestrator.sweep.config import Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The low and the high end of an estimate."""

    low: float
    high: float

    def __mul__(self, factor: float) -> Range:
        return Range(low=self.low * factor, high=self.high * factor)

    def __str__(self) -> str:
        """Format as `12.3 to 40.1`, or as one number if both ends format alike."""
        low, high = format_number(self.low), format_number(self.high)
        return low if low == high else f"{low} to {high}"


def format_number(value: float) -> str:
    """Format with three significant digits, or with all digits of the integer part."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpointing:
    """How often trials save their state, and what that costs."""

    interval_s: float
    cost_s: float | None
    """Seconds per checkpoint; None if none was measured."""
    longest_trial_s: float
    """The longest remaining trial. A trial shorter than the interval makes no checkpoint."""
    overhead_share: float
    """Share of a trial's time that its checkpoints take."""
    repeated_share: float
    """Share of a trial's time that is repeated if a worker is lost every `placement.mtbf_s`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimate of the remaining runs. It needs measured runs, so a new plan has none."""

    measured_share: float
    """Share of the remaining runs whose kind was measured; the hours of the others are scaled by
    their work (see `plan.work`)."""
    hardware: tuple[str, ...]
    """Devices that runs were measured on."""
    slot_hours: Range
    """Sum over trials: the hours if one slot ran them all."""
    gpu_hours: Range | None
    slots: int | None
    """Trials that run at once; None without `placement.slots` and without a cluster profile."""
    wall_hours: Range | None
    """Hours until the last trial ends, on that many slots."""
    money: Range | None
    """None without a cluster profile."""
    currency: str | None
    """None without a cluster profile."""
    checkpointing: Checkpointing


def estimate(
    plan: Plan,
    committed: Mapping[str, MeasuredRecord],
    placement: Placement,
    profile: PricedProfile | None,
    skipped: Collection[str] = (),
) -> Estimate | None:
    """Estimate the remaining runs of a plan without the `skipped` ones; None if nothing was
    measured.

    Raises:
        ConfigError: no node of `profile` fits a trial.
    """
    slots = _slots(placement, profile)
    throughput = measure_throughput(plan, committed)
    if throughput is None:
        return None
    remaining = remaining_runs(plan, committed, skipped)
    cost = throughput.cost("mean")
    seconds = list(map(cost, remaining))
    checkpointing = _checkpointing(placement, committed, max(seconds, default=0.0))
    hours = _hours(throughput, remaining, checkpointing)
    wall = money = None
    if slots:
        schedule = forecast(Frontier(plan, [*committed, *skipped], cost=cost), slots)
        wall = hours * (schedule.wall_s / sum(seconds) if any(seconds) else 0.0)
        money = _money(profile, placement, hours, wall, schedule) if profile else None
    return Estimate(
        measured_share=throughput.measured_share(remaining),
        hardware=_hardware(plan, committed),
        slot_hours=hours,
        gpu_hours=hours * (placement.gpus * placement.workers) if placement.gpus else None,
        slots=slots,
        wall_hours=wall,
        money=money,
        currency=profile.currency if profile else None,
        checkpointing=checkpointing,
    )


def remaining_summary(
    plan: Plan,
    committed: Mapping[str, MeasuredRecord],
    placement: Placement,
    profile: PricedProfile | None,
    skipped: Collection[str] = (),
) -> str:
    """Summarize what is left: `41 training runs are left, for 12 to 30 USD`."""
    count = len(remaining_runs(plan, committed, skipped))
    remaining = estimate(plan, committed, placement, profile, skipped)
    money = f", for {remaining.money} {remaining.currency}" if remaining and remaining.money else ""
    return f"{count:,} training run{'s are' if count != 1 else ' is'} left{money}"


def _slots(placement: Placement, profile: PricedProfile | None) -> int | None:
    if profile is None:
        return placement.slots
    max_slots = prices.max_slots(profile, placement)
    return min(placement.slots or max_slots, max_slots)


def _hours(
    throughput: Throughput, remaining: Sequence[Trial], checkpointing: Checkpointing
) -> Range:
    low, high = (sum(map(throughput.cost(speed), remaining)) for speed in ("fast", "slow"))
    extra_share = checkpointing.overhead_share + checkpointing.repeated_share
    return Range(low=low / 3600, high=high * (1 + extra_share) / 3600)


def _checkpointing(
    placement: Placement, committed: Mapping[str, MeasuredRecord], longest_trial_s: float
) -> Checkpointing:
    measured_s = median_checkpoint_s(committed.values())
    cost_s = measured_s or INITIAL_COST_S
    interval_s = placement.checkpoint_every_s
    if interval_s == "auto":
        interval_s = young_interval_s(cost_s, placement.mtbf_s)
    return Checkpointing(
        interval_s=interval_s,
        cost_s=measured_s,
        longest_trial_s=longest_trial_s,
        overhead_share=cost_s / interval_s if longest_trial_s > interval_s else 0.0,
        # On average, a loss comes halfway between two checkpoints, or halfway through a trial
        # without any.
        repeated_share=min(interval_s, longest_trial_s) / 2 / placement.mtbf_s,
    )


def _money(
    profile: PricedProfile,
    placement: Placement,
    hours: Range,
    wall: Range,
    schedule: Forecast,
) -> Range:
    """Return the cost, at least that of the head and of the nodes that are always up."""
    offers = prices.offers(profile, placement)
    head_price = prices.price_per_hour(profile, HEAD_GROUP)
    always_up_price = sum(node.min * node.price_per_hour for node in profile.workers)
    node_prices: list[float] = []
    unplaced = schedule.max_running
    for offer in reversed(offers):
        placed = min(unplaced, offer.slots)
        node_prices += [offer.node.price_per_hour] * offer.nodes_for(placed)
        unplaced -= placed
    price_of = {
        trials: max(always_up_price, sum(node_prices[: trials * placement.nodes]))
        for trials in schedule.busy_s
    }
    money_s = sum(price_of[trials] * seconds for trials, seconds in schedule.busy_s.items())
    mean_price = money_s / schedule.wall_s if schedule.wall_s else 0.0
    return Range(
        low=head_price * wall.low
        + max(hours.low * offers[0].slot_price, always_up_price * wall.low),
        high=wall.high * (head_price + mean_price),
    )


def _hardware(plan: Plan, committed: Mapping[str, MeasuredRecord]) -> tuple[str, ...]:
    devices = (
        committed[trial.key].environment.get("device", "")
        for trial in plan.training_runs()
        if trial.key in committed
    )
    return tuple(sorted({device for device in devices if device}))
