"""Ray Tune hooks that report to the searcher what Tune does not pass on to a searcher itself."""

from __future__ import annotations

import os
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

from orchestrator.schedule.events import NodeLost, WorkerExited, WorkerRestarting, WorkerStarted
from orchestrator.tune.searcher import PlanSearcher


class WorkerHook(Callback):
    """Report which sessions have a worker."""

    def __init__(self, searcher: PlanSearcher) -> None:
        self._searcher = searcher

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._searcher.handle(WorkerStarted(trial.trial_id))

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self._searcher.handle(WorkerRestarting(trial.trial_id))


class NodeLossHook(FIFOScheduler):
    """Report why a session failed, before the searcher is notified of its end: the loss of a node
    is not a failure of the work item. (If the node announced its preemption, Tune itself restarts
    the session.)"""

    def __init__(self, searcher: PlanSearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        error = _load_error(trial)
        if not isinstance(error, RayActorError):
            return
        # Ray gives the reason only in the message.
        message = str(error)
        if error.preempted or "node has died" in message or "node was terminated" in message:
            self._searcher.handle(NodeLost(trial.trial_id))
        elif error.actor_init_failed:
            last = message.strip().splitlines()[-1]
            cause = f"the worker failed to start: {last}"
            self._searcher.handle(WorkerExited(trial.trial_id, cause))


class StopHook(Stopper):
    """Let the searcher process events in every iteration of Tune's loop, and end the run."""

    def __init__(self, searcher: PlanSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.process_events()


def _load_error(trial: TuneTrial) -> object:
    path = trial.pickled_error_file  # written by this process
    if not path or not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return cloudpickle.load(file)
