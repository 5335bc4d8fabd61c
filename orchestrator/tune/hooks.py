"""Where Ray Tune tells, and asks, more than a searcher hears."""

from __future__ import annotations

import os
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

from orchestrator.tune.searcher import PlanSearcher


class Watch(Callback):
    """Tells the searcher which stints have a worker."""

    def __init__(self, searcher: PlanSearcher) -> None:
        self._searcher = searcher

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._searcher.got_worker(trial.trial_id)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._searcher.lost_worker(trial.trial_id)


class Losses(FIFOScheduler):
    """Tells the searcher, before it hears of a stint's end, why: that a node died is no fault of
    the unit's. (Tune itself starts a stint again whose node announced its preemption.)"""

    def __init__(self, searcher: PlanSearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        error = _error_of(trial)
        if not isinstance(error, RayActorError):
            return
        # Ray tells this in words alone.
        words = str(error)
        if error.preempted or "node has died" in words or "node was terminated" in words:
            self._searcher.lost(trial.trial_id)
        elif error.actor_init_failed:
            last = words.strip().splitlines()[-1]
            self._searcher.died(trial.trial_id, f"no worker can start: {last}")


class Ender(Stopper):
    """Asked at every turn of Tune's loop whether to end early."""

    def __init__(self, searcher: PlanSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.heed()


def _error_of(trial: TuneTrial) -> object:
    path = trial.pickled_error_file  # written by this process
    if not path or not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return cloudpickle.load(file)
