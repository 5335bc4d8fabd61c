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
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

from orchestrator.errors import RunError
from orchestrator.monitor.observers import Observer
from orchestrator.plan.graph import Plan
from orchestrator.plan.work import Cost, work_of
from orchestrator.ray_cluster.capacity import at_once, shape
from orchestrator.ray_cluster.join import joined
from orchestrator.schedule.frontier import Frontier, State, Unit
from orchestrator.store.lease_watch import Lookout
from orchestrator.sweep.config import Placement
from orchestrator.tune.channel import Beacon
from orchestrator.tune.hooks import Ender, Losses, Watch
from orchestrator.tune.searcher import Meter, PlanSearcher
from orchestrator.tune.work_table import Handout
from orchestrator.tune.worker_loop import Start, Stint
from orchestrator.worker.protocol import Work

_TUNE_SETTINGS = {
    # The CSV, JSON and TensorBoard writers cost 2.4x the driver's CPU and write what MLflow holds.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Every snapshot rewrites the state of all trials, and we never restore one.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ours, see `_interruptible`; Tune's would save its own state, which we never read.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended, in units of work; `failures` maps the head of each to its error."""

    finished: int
    failed: int
    blocked: int
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    exhausted: bool = False
    """The budget was spent before all was done."""
    outage: str = ""


def run(
    plan: Plan,
    committed: set[str],
    start: Start,
    placement: Placement,
    observer: Observer,
    cost: Cost = work_of,
    *,
    lookout: Lookout | None = None,
    meter: Meter | None = None,
    most: int | None = None,
    attend: Iterable[AbstractContextManager[object]] = (),
) -> Summary:
    """Run every trial of the plan that is not in `committed`; `start` makes a process's worker, and
    `cost` weighs the trials, so that the longest way to the end is begun first. `lookout` follows
    what other runs are at; `meter` may end the run; `most` is how many trials the cluster holds at
    its largest, if that is known; what is to `attend` is entered once the cluster is there, and
    left before it goes.

    The first SIGINT or SIGTERM lets running trials save their state; a second one ends at once.
    Raises RunError when some units neither finished, failed nor were blocked, and nothing (an
    interrupt, a spent budget, a store that went away) explains it.
    """
    begin = time.perf_counter()
    frontier = Frontier(plan, committed, strikes=placement.strikes, cost=cost)
    if frontier.settled:
        return _summary(frontier, begin)
    os.environ.update(_TUNE_SETTINGS)
    with joined(), ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sweepstakes-"))
        for companion in attend:
            stack.enter_context(companion)
        slots = at_once(placement, most)
        beacon = Beacon()
        searcher = PlanSearcher(
            frontier,
            observer,
            slots=slots,
            most=placement.lane,
            say=beacon.say,
            hand=beacon.hand,
            lookout=lookout,
            meter=meter,
        )
        handout = Handout(_work(plan, unit) for unit in frontier.units)
        stint = tune.with_parameters(Stint, handout=handout, start=start, beacon=beacon.actor)
        tuner = Tuner(
            tune.with_resources(stint, shape(placement)),
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=Losses(searcher),
                num_samples=-1,  # until the searcher ends it; the default, 1, would cut the plan
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=RunConfig(
                name=plan.name,
                storage_path=scratch,
                verbose=0,
                callbacks=[Watch(searcher)],
                stop=Ender(searcher),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                # Retries are the frontier's: it counts strikes per unit, not per stint.
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            with _interruptible(searcher):
                tuner.fit()
        except KeyboardInterrupt:
            searcher.interrupted = True
    summary = _summary(frontier, begin, searcher)
    if not (frontier.settled or summary.interrupted or summary.exhausted or summary.outage):
        counts = {state.value: n for state, n in frontier.counts.items() if n}
        raise RunError(
            f"the sweep ended early: {counts}; run it again, and report this if it stays"
        )
    return summary


def _work(plan: Plan, unit: Unit) -> Work:
    members = (plan.trials[key] for key in sorted(unit.members))
    return Work(plan.trials[unit.head], tuple(members))


def _summary(frontier: Frontier, begin: float, searcher: PlanSearcher | None = None) -> Summary:
    return Summary(
        finished=frontier.counts[State.FINISHED],
        failed=frontier.counts[State.FAILED],
        blocked=frontier.counts[State.BLOCKED],
        seconds=time.perf_counter() - begin,
        failures={u.head: u.error for u in frontier.units if u.state is State.FAILED},
        interrupted=searcher is not None and searcher.interrupted and not frontier.settled,
        exhausted=searcher is not None and searcher.exhausted and not frontier.settled,
        outage=searcher.outage if searcher is not None else "",
    )


@contextmanager
def _interruptible(searcher: PlanSearcher) -> Iterator[None]:
    """The first signal lets the trials save their state; the second one ends the run at once, which
    loses nothing that was committed."""

    def stop(signum: int, frame: FrameType | None) -> None:
        if searcher.interrupted:
            raise KeyboardInterrupt
        searcher.interrupted = True
        log.warning("stopping: the running trials save their state; once more ends at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
