"""What is left of a sweep in hours and money, as a range. Pure.

Low: every trial at the pace of the fastest tenth of its kind, on full nodes of the cheapest kind.
High: the slowest tenth's pace, what checkpoints cost, and what is done again after losses; on the
dearest nodes, each kept up by a single trial as long as there are no more trials than nodes.
Trials are measured from their first step to their score: the start of processes, and nodes that
boot or wait to be given back, come on top of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cost import prices
from orchestrator.cost.checkpointing import FIRST_GUESS_S, best_period_s
from orchestrator.cost.prices import HEAD, Profile
from orchestrator.plan import work as costs
from orchestrator.plan.counts import runs_left
from orchestrator.plan.graph import Plan, Trial
from orchestrator.schedule.forecast import Forecast, forecast
from orchestrator.schedule.frontier import Frontier
from orchestrator.sweep.config import Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    low: float
    high: float

    def __mul__(self, factor: float) -> Span:
        return Span(low=self.low * factor, high=self.high * factor)

    def __str__(self) -> str:
        """`12.3 to 40.1`, or one number where both read alike."""
        low, high = figure(self.low), figure(self.high)
        return low if low == high else f"{low} to {high}"


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """How trials save their state on the way."""

    period_s: float
    cost_s: float | None
    """Of one checkpoint; None if none was measured."""
    longest_s: float
    """The longest trial that is left; shorter than the period, it makes no checkpoint."""
    saving: float
    """Share of a trial's time that its checkpoints take."""
    redone: float
    """Share that losses undo, if a worker is lost every `placement.lost_every_s`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Of what is left to run; only of measured paces, so a plan without any has none."""

    measured: float
    """Share of the runs left of which one of the same kind was measured; the others' hours follow
    from their work (see `costs`)."""
    hardware: tuple[str, ...]
    """What was measured on."""
    slot_hours: Span
    """As if one trial ran after the other."""
    gpu_hours: Span | None
    slots: int | None
    """Trials at once; None if neither `placement.slots` nor a cluster profile tells."""
    wall_hours: Span | None
    """Until the last trial ends, on that many slots."""
    money: Span | None
    """None without a cluster profile, likewise `currency`."""
    currency: str | None
    saving: Saving


def estimate(
    plan: Plan,
    committed: Mapping[str, costs.Measured],
    placement: Placement,
    profile: Profile | None,
) -> Estimate | None:
    """None while nothing was measured. Raises ConfigError if no node of `profile` holds a trial."""
    slots = _slots(placement, profile)
    paces = costs.measure(plan, committed)
    if paces is None:
        return None
    left = runs_left(plan, committed)
    cost = paces.cost("mean")
    seconds = list(map(cost, left))
    saving = _saving(placement, committed, max(seconds, default=0.0))
    hours = _hours(paces, left, saving)
    wall = money = None
    if slots:
        ahead = forecast(Frontier(plan, committed, cost=cost), slots)
        wall = hours * (ahead.wall_s / sum(seconds) if any(seconds) else 0.0)
        money = _money(profile, placement, hours, wall, ahead) if profile else None
    return Estimate(
        measured=paces.share(left),
        hardware=_hardware(plan, committed),
        slot_hours=hours,
        gpu_hours=hours * (placement.gpus * placement.workers) if placement.gpus else None,
        slots=slots,
        wall_hours=wall,
        money=money,
        currency=profile.currency if profile else None,
        saving=saving,
    )


def left_words(
    plan: Plan,
    committed: Mapping[str, costs.Measured],
    placement: Placement,
    profile: Profile | None,
) -> str:
    """`41 training runs are left, for 12 to 30 USD`."""
    count = len(runs_left(plan, committed))
    ahead = estimate(plan, committed, placement, profile)
    money = f", for {ahead.money} {ahead.currency}" if ahead and ahead.money else ""
    return f"{count:,} training run{'s are' if count != 1 else ' is'} left{money}"


def _slots(placement: Placement, profile: Profile | None) -> int | None:
    if profile is None:
        return placement.slots
    places = prices.places(profile, placement)
    return min(placement.slots or places, places)


def _hours(paces: costs.Paces, left: Sequence[Trial], saving: Saving) -> Span:
    low, high = (sum(map(paces.cost(at), left)) for at in ("fast", "slow"))
    return Span(low=low / 3600, high=high * (1 + saving.saving + saving.redone) / 3600)


def _saving(
    placement: Placement, committed: Mapping[str, costs.Measured], longest_s: float
) -> Saving:
    cost_s = costs.checkpoint_s(committed.values())
    spent_s = cost_s or FIRST_GUESS_S
    period_s = placement.checkpoint_every_s
    if period_s == "auto":
        period_s = best_period_s(spent_s, placement.lost_every_s)
    saves = longest_s > period_s
    return Saving(
        period_s=period_s,
        cost_s=cost_s,
        longest_s=longest_s,
        saving=spent_s / period_s if saves else 0.0,
        # A loss strikes halfway between two checkpoints, or halfway through a trial without any.
        redone=min(period_s, longest_s) / 2 / placement.lost_every_s,
    )


def _money(
    profile: Profile, placement: Placement, hours: Span, wall: Span, ahead: Forecast
) -> Span:
    """Never less than the head, and the nodes that are up at all times, cost until the end."""
    offers = prices.offers(profile, placement)
    head = prices.price_of(profile, HEAD)
    standing = sum(node.min * node.price_per_hour for node in profile.workers)
    nodes: list[float] = []
    left = ahead.most
    for offer in reversed(offers):
        taken = min(left, offer.places)
        nodes += [offer.node.price_per_hour] * offer.nodes(taken)
        left -= taken
    per_hour = {
        trials: max(standing, sum(nodes[: trials * placement.nodes])) for trials in ahead.busy_s
    }
    up = sum(per_hour[trials] * seconds for trials, seconds in ahead.busy_s.items())
    return Span(
        low=head * wall.low + max(hours.low * offers[0].price, standing * wall.low),
        high=wall.high * (head + (up / ahead.wall_s if ahead.wall_s else 0.0)),
    )


def _hardware(plan: Plan, committed: Mapping[str, costs.Measured]) -> tuple[str, ...]:
    devices = (
        committed[trial.key].environment.get("device", "")
        for trial in plan.training_runs()
        if trial.key in committed
    )
    return tuple(sorted({device for device in devices if device}))
