"""The checkpoint interval, on a clock that only the test moves."""

from __future__ import annotations

import pytest

from orchestrator.cost.checkpointing import CheckpointTimer, young_interval_s


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lost_share(interval_s: float, cost_s: float, mtbf_s: float) -> float:
    """Return the share of time spent on checkpoints and on repeated work."""
    return cost_s / interval_s + interval_s / 2 / mtbf_s


@pytest.mark.parametrize(("cost_s", "mtbf_s"), [(0.1, 600.0), (5.0, 14_400.0), (60.0, 86_400.0)])
def test_no_other_interval_loses_less_time(cost_s: float, mtbf_s: float) -> None:
    best = young_interval_s(cost_s, mtbf_s)
    for other in (best / 2, best * 0.9, best * 1.1, best * 2):
        assert lost_share(best, cost_s, mtbf_s) < lost_share(other, cost_s, mtbf_s)


def test_the_interval_follows_from_the_cost_of_the_last_checkpoint() -> None:
    clock = Clock()
    timer = CheckpointTimer(None, mtbf_s=200.0, clock=clock)
    clock.now = timer.interval_s - 1
    assert not timer.due()
    clock.now += 1
    assert timer.due()
    clock.now += 1.0  # collecting the state and sending it
    timer.saved()
    assert timer.interval_s == young_interval_s(1.0, 200.0) == 20.0
    clock.now += 19.0
    assert not timer.due()
    clock.now += 1.0
    assert timer.due()


def test_a_fixed_interval_does_not_change() -> None:
    clock = Clock()
    timer = CheckpointTimer(30.0, mtbf_s=200.0, clock=clock)
    clock.now = 30.0
    assert timer.due()
    clock.now = 60.0
    timer.saved()
    assert timer.interval_s == 30.0
    assert not timer.due()
