"""Run what a plan still lacks, with Ray Tune as the engine.

Never restored from Tune's own state, which re-runs finished work: each start asks the store what
exists and runs the rest with a new Tuner. The sweep ends loudly unless every unit is accounted for.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

from orchestrator.config import Placement
from orchestrator.costs import Cost, work_of
from orchestrator.errors import RunError, StoreFull, StoreUnreachable, SweepstakesError
from orchestrator.frontier import Frontier, State, Unit
from orchestrator.plan import Plan
from orchestrator.searcher import LANE, Observer, PlanSearcher
from orchestrator.work import Work, Worker
from trainables.errors import TrainableError

_TUNE_SETTINGS = {
    # The CSV, JSON and TensorBoard writers cost 2.4x the driver's CPU and write what MLflow holds.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Every snapshot rewrites the state of all trials, and we never restore one.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The first SIGINT is ours (see `_interruptible`), the second is Python's.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended, in units of work; `failures` maps the head of each to its error."""

    finished: int
    failed: int
    blocked: int
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    outage: str = ""


class Lane(tune.Trainable):
    """A Tune trial: a list of units, one per `step`, on a process that outlives it."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, work: dict[str, Work], start: Callable[[], Worker]
    ) -> None:
        self._work = work
        self._worker = start()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._lane = list(new_config[LANE])
        return True

    def step(self) -> dict[str, Any]:
        """One unit. A failure ends the lane: what follows in it may need what failed."""
        head = self._lane.pop(0)
        result: dict[str, Any] = {"head": head, "committed": [], "score": None}
        try:
            done = self._worker.perform(self._work[head])
            result |= {"committed": done.committed, "score": done.score}
        except (StoreUnreachable, StoreFull) as error:  # no fault of the unit's
            result["outage"] = str(error)
        except (TrainableError, SweepstakesError) as error:
            result["error"] = str(error)
        except Exception as error:  # a defect of ours or of a library: three strikes, then named
            result["error"] = f"{type(error).__name__}: {error}"
            logging.getLogger(__name__).exception("trial %s failed", head)
        if "error" in result:
            self._worker.note_failure(self._work[head].head, result["error"])
        ended = not self._lane or "error" in result or "outage" in result
        return result | {"done": ended}


def run(
    plan: Plan,
    committed: set[str],
    start: Callable[[], Worker],
    placement: Placement,
    observer: Observer,
    cost: Cost = work_of,
) -> Summary:
    """Run every trial of the plan that is not in `committed`; `start` makes a process's worker, and
    `cost` weighs the trials, so that the longest way to the end is begun first.

    Raises RunError when some units neither finished, failed nor were blocked, and nothing
    (an interrupt, a store that went away) explains it.
    """
    begin = time.perf_counter()
    frontier = Frontier(plan, committed, strikes=placement.strikes, cost=cost)
    if frontier.settled:
        return _summary(frontier, begin)
    os.environ.update(_TUNE_SETTINGS)
    interrupted = False
    outage = ""
    with _cluster() as resources, tempfile.TemporaryDirectory(prefix="sweepstakes-") as scratch:
        slots = placement.slots or _slots(resources, placement)
        searcher = PlanSearcher(frontier, observer, slots=slots, most=placement.lane)
        work = {unit.head: _work(plan, unit) for unit in frontier.units}
        lane = tune.with_parameters(Lane, work=work, start=start)
        tuner = Tuner(
            tune.with_resources(lane, {"cpu": placement.cpus, "gpu": placement.gpus}),
            tune_config=TuneConfig(
                search_alg=searcher,
                num_samples=-1,  # until the searcher ends it; the default, 1, would cut the plan
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=RunConfig(
                name=plan.name,
                storage_path=scratch,
                verbose=0,
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                # Retries are the frontier's: it counts strikes per unit, not per lane.
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            with _interruptible():
                tuner.fit()
        except KeyboardInterrupt:
            interrupted = True
        outage = searcher.outage
    summary = _summary(frontier, begin, interrupted=interrupted, outage=outage)
    if not (frontier.settled or interrupted or outage):
        counts = {state.value: n for state, n in frontier.counts.items() if n}
        raise RunError(
            f"the sweep ended early: {counts}; run it again, and report this if it stays"
        )
    return summary


def _work(plan: Plan, unit: Unit) -> Work:
    members = (plan.trials[key] for key in sorted(unit.members))
    return Work(plan.trials[unit.head], tuple(members))


def _summary(
    frontier: Frontier, begin: float, *, interrupted: bool = False, outage: str = ""
) -> Summary:
    return Summary(
        finished=frontier.counts[State.FINISHED],
        failed=frontier.counts[State.FAILED],
        blocked=frontier.counts[State.BLOCKED],
        seconds=time.perf_counter() - begin,
        failures={u.head: u.error for u in frontier.units if u.state is State.FAILED},
        interrupted=interrupted,
        outage=outage,
    )


@contextmanager
def _cluster() -> Iterator[dict[str, float]]:
    """The Ray cluster this process belongs to, or one of this machine's own for as long as needed;
    yields its resources."""
    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS", "local")
        # No dashboard of our own: it costs a process, and MLflow shows what people look for.
        dashboard = None if address != "local" else False
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,  # a worker's death is ours to tell, without a traceback
            include_dashboard=dashboard,
        )
    try:
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        if ours:
            ray.shutdown()


def _slots(resources: dict[str, float], placement: Placement) -> int:
    """How many trials the cluster holds at once; at least one, so that Ray says what is lacking."""
    fits = [resources.get("CPU", 0) // placement.cpus]
    if placement.gpus:
        fits.append(resources.get("GPU", 0) // placement.gpus)
    return max(1, int(min(fits)))


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end the run at once: commits are atomic, so nothing needs to be saved."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
