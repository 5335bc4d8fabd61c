"""The contract of strategies."""

from __future__ import annotations

from orchestrator.schedule.strategy import STRATEGIES
from orchestrator.sweep.config import Sweep
from orchestrator.testing.sources import small_plan
from trainables.spec import TrainSpec

MAX_ROUNDS = 1000


def check_strategy_contract(name: str, sweep: Sweep) -> None:
    """Check a strategy of `STRATEGIES`; `sweep` is a sweep that names it.

    It names trials of the plan only, and the same ones when it is asked again. It comes to an end:
    after some rounds of results it wants nothing new.
    """
    plan = small_plan(["imp"], ["random"])
    strategy = STRATEGIES[name].create(sweep)
    scores: dict[str, float] = {}
    wanted: set[str] = set()
    for _ in range(MAX_ROUNDS):
        new = set(strategy.wanted(plan, scores))
        assert new == set(strategy.wanted(plan, scores)), "it wants something else when asked again"
        unknown = new - plan.trials.keys()
        assert not unknown, f"it wants trials that are not in the plan: {sorted(unknown)[:3]}"
        wanted |= new
        runs = {key for key in wanted if isinstance(plan.trials[key].spec, TrainSpec)}
        if runs <= scores.keys():
            return
        scores |= {key: 50.0 + int(key[:6], 16) % 50 for key in runs}
    raise AssertionError(f"it still wants new trials after {MAX_ROUNDS} rounds")
