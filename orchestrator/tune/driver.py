"""Run the uncommitted trials of a plan, with Ray Tune as the engine.

Tune's own state is never restored, because that re-runs finished work. Each start asks the store
what is committed and runs the rest with a new Tuner. An error is raised if work items are left and
nothing explains it.
"""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType, MappingProxyType

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

from orchestrator.environment import set_variables
from orchestrator.errors import RunError
from orchestrator.monitor.observers import Observer
from orchestrator.plan.graph import Plan
from orchestrator.plan.work import CostFunction, work_of
from orchestrator.ray_cluster.capacity import max_concurrent_trials, trial_resources
from orchestrator.ray_cluster.join import joined_cluster
from orchestrator.schedule.failures import LimitedRetries
from orchestrator.schedule.frontier import Frontier, WorkItem, WorkState
from orchestrator.schedule.scheduler import Scheduler
from orchestrator.schedule.strategy import ALL, Strategy, StrategyState
from orchestrator.store.lease_watch import LeaseWatcher
from orchestrator.sweep.config import Placement
from orchestrator.tune.channel import Channel
from orchestrator.tune.hooks import NodeLossHook, StopHook, WorkerHook
from orchestrator.tune.searcher import Budget, PlanSearcher
from orchestrator.tune.work_table import WorkTable
from orchestrator.tune.worker_loop import StartWorker, WorkerLoop
from orchestrator.worker.protocol import Assignment

_TUNE_SETTINGS = {
    # The CSV, JSON and TensorBoard loggers cost 2.4x the driver's CPU and write what MLflow has.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Every snapshot rewrites the state of all trials, and we never restore one.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # `_interruptible` handles signals; Tune's handler would save its own state, which is unused.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run. Replays, and tickets that need no run, count only if they fail."""

    finished: int
    """Training runs that are newly committed."""
    failed: int
    """Work items that were given up."""
    blocked: int
    """Work items that depend on these."""
    seconds: float
    skipped: int = 0
    """Training runs that the strategy did not want. They are no failure."""
    failures: dict[str, str] = field(default_factory=dict)
    """Key of a failed work item -> its last error."""
    interrupted: bool = False
    exhausted: bool = False
    """Whether the budget ran out before all items were settled."""
    outage: str = ""
    """Why the run ended early without a failure of its own: the store, or the driver's channel,
    did not answer."""


def run_plan(
    plan: Plan,
    committed: set[str],
    start_worker: StartWorker,
    placement: Placement,
    observer: Observer,
    cost: CostFunction = work_of,
    *,
    strategy: Strategy = ALL,
    scores: Mapping[str, float] = MappingProxyType({}),
    lease_watcher: LeaseWatcher | None = None,
    budget: Budget | None = None,
    max_slots: int | None = None,
    contexts: Iterable[AbstractContextManager[object]] = (),
) -> Summary:
    """Run the trials of the plan that `strategy` wants and that are not in `committed`.

    `start_worker` creates the worker of a process. `cost` weighs the trials, so that the longest
    remaining path starts first. `scores` are those of the committed training runs, for the
    strategy. `lease_watcher` follows the items that other runs hold leases of.
    `budget` may end the run. `max_slots` is the number of trials that fit on the cluster at its
    maximum size, if known. The `contexts` are entered once the cluster is available, and exited
    before it is released.

    In the main thread, the first SIGINT or SIGTERM lets running trials save their state, and a
    second one ends the run immediately. Another thread receives no signals. Raises RunError when
    the strategy fails, or some items are not settled and no interrupt, exhausted budget or outage
    explains it.
    """
    begin = time.perf_counter()
    state = StrategyState(plan, strategy, scores)
    frontier = Frontier(plan, committed, cost=cost, wanted=state.wanted())
    new_runs = {trial.key for trial in plan.training_runs()} - committed
    if frontier.settled:
        return _summary(frontier, begin, new_runs)
    with set_variables(_TUNE_SETTINGS), joined_cluster(), ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sweepstakes-"))
        for context in contexts:
            stack.enter_context(context)
        slots = max_concurrent_trials(placement, max_slots)
        channel = Channel()
        scheduler = Scheduler(
            frontier,
            slots=slots,
            max_leaves=placement.chunk_size,
            failures=LimitedRetries(placement.max_failures),
            strategy=state,
        )
        searcher = PlanSearcher(
            scheduler,
            observer,
            send=channel.send,
            assign=channel.assign,
            lease_watcher=lease_watcher,
            budget=budget,
        )
        work_table = WorkTable(_assignment(plan, item) for item in frontier.items)
        session = tune.with_parameters(
            WorkerLoop, work_table=work_table, start=start_worker, channel=channel.actor
        )
        tuner = Tuner(
            tune.with_resources(session, trial_resources(placement)),
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=NodeLossHook(searcher),
                num_samples=-1,  # until the searcher ends it; with the default, 1, one session runs
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=RunConfig(
                name=plan.name,
                storage_path=scratch,
                verbose=0,
                callbacks=[WorkerHook(searcher)],
                stop=StopHook(searcher),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                # The frontier retries: it counts failures per work item, not per session.
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            with _interruptible(searcher):
                tuner.fit()
        except KeyboardInterrupt:
            searcher.interrupted = True
    if scheduler.error:
        raise RunError(f"{scheduler.error}; what is committed is kept, and the next run resumes")
    summary = _summary(
        frontier,
        begin,
        new_runs,
        interrupted=searcher.interrupted,
        exhausted=scheduler.exhausted,
        outage=scheduler.outage,
    )
    if not (summary.interrupted or summary.exhausted or summary.outage):
        check_settled(frontier)
    return summary


def check_settled(frontier: Frontier) -> None:
    """Raise RunError unless every item is finished, failed, blocked or skipped.

    The items themselves are counted, so that a run whose bookkeeping is wrong fails too.
    """
    counts = Counter(item.state for item in frontier.items)
    if not all(state.settled for state in counts) or not frontier.settled:
        raise RunError(
            f"the sweep ended early, with work items {_names(counts)}; run it again, and report a"
            " bug if this repeats"
        )


def _names(counts: Mapping[WorkState, int]) -> dict[str, int]:
    return {state.value: counts[state] for state in WorkState if counts.get(state)}


def _assignment(plan: Plan, item: WorkItem) -> Assignment:
    members = (plan.trials[key] for key in sorted(item.members))
    return Assignment(plan.trials[item.key], tuple(members))


def _summary(
    frontier: Frontier,
    begin: float,
    new_runs: Container[str],
    *,
    interrupted: bool = False,
    exhausted: bool = False,
    outage: str = "",
) -> Summary:
    runs = Counter(item.state for item in frontier.items if item.key in new_runs)
    return Summary(
        finished=runs[WorkState.FINISHED],
        failed=frontier.counts[WorkState.FAILED],
        blocked=frontier.counts[WorkState.BLOCKED],
        skipped=runs[WorkState.SKIPPED],
        seconds=time.perf_counter() - begin,
        failures={i.key: i.error for i in frontier.items if i.state is WorkState.FAILED},
        interrupted=interrupted and not frontier.settled,
        exhausted=exhausted and not frontier.settled,
        outage=outage,
    )


@contextmanager
def _interruptible(searcher: PlanSearcher) -> Iterator[None]:
    """On the first signal let the trials save their state; on the second end the run immediately,
    which loses nothing that was committed. Only the main thread can handle signals; in another one
    they are left to the caller."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        if searcher.interrupted:
            raise KeyboardInterrupt
        searcher.interrupted = True
        log.warning("stopping: the running trials save their state; signal again to end at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: the handler was not set from Python, and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
