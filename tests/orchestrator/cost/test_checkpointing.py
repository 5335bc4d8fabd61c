"""The period between checkpoints, on a clock that stands still unless it is told to move."""

from __future__ import annotations

import pytest

from orchestrator.cost.checkpointing import Pace, best_period_s


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lost(period_s: float, cost_s: float, lost_every_s: float) -> float:
    """Share of the time that goes into checkpoints, and into work that is done again."""
    return cost_s / period_s + period_s / 2 / lost_every_s


@pytest.mark.parametrize(("cost_s", "every_s"), [(0.1, 600.0), (5.0, 14_400.0), (60.0, 86_400.0)])
def test_no_other_period_loses_less(cost_s: float, every_s: float) -> None:
    best = best_period_s(cost_s, every_s)
    for other in (best / 2, best * 0.9, best * 1.1, best * 2):
        assert lost(best, cost_s, every_s) < lost(other, cost_s, every_s)


def test_the_period_follows_from_what_the_last_checkpoint_cost() -> None:
    clock = Clock()
    pace = Pace(None, lost_every_s=200.0, clock=clock)
    clock.now = pace.period_s - 1
    assert not pace.due()
    clock.now += 1
    assert pace.due()
    clock.now += 1.0  # taking the state and sending it
    pace.saved()
    assert pace.period_s == best_period_s(1.0, 200.0) == 20.0
    clock.now += 19.0
    assert not pace.due()
    clock.now += 1.0
    assert pace.due()


def test_a_period_that_is_stated_is_kept() -> None:
    clock = Clock()
    pace = Pace(30.0, lost_every_s=200.0, clock=clock)
    clock.now = 30.0
    assert pace.due()
    clock.now = 60.0
    pace.saved()
    assert pace.period_s == 30.0
    assert not pace.due()
