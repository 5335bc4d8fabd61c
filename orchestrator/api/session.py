"""Operations on a planned sweep: preview, run, status, report, rebuild the MLflow experiment.

Nothing is printed here, except by the display that a caller passes to `run_sweep`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

from orchestrator.api.results import RunResult, SweepPlan, SweepReport, SweepStatus
from orchestrator.api.workspace import (
    LOCAL,
    Connections,
    PlannedSweep,
    chart_link,
    connect,
    has_store,
)
from orchestrator.cost.estimate import estimate, remaining_summary
from orchestrator.cost.prices import max_slots
from orchestrator.credentials import aws_credentials
from orchestrator.errors import ConfigError, InputError
from orchestrator.files import make_folder
from orchestrator.monitor.board import Board, board_from_records
from orchestrator.monitor.event_log import EventLog
from orchestrator.monitor.observers import (
    CompositeObserver,
    FailureObserver,
    IsolatedObserver,
    Observer,
    TrackingObserver,
)
from orchestrator.monitor.status import Status, last_errors, read_status
from orchestrator.monitor.terminal import no_display
from orchestrator.plan.counts import PlanCounts, count_plan, remaining_runs
from orchestrator.plan.work import CostFunction, trial_seconds, work_of
from orchestrator.schedule.strategy import scores_of
from orchestrator.store.lease_watch import LeaseWatcher
from orchestrator.store.leases import Leases
from orchestrator.worker.protocol import Context
from orchestrator.worker.start import start_worker

if TYPE_CHECKING:
    from orchestrator.tune.driver import Summary

log = logging.getLogger(__name__)

Display: TypeAlias = Callable[[PlanCounts, Board, CostFunction], AbstractContextManager[Observer]]
"""Shows a run while it lasts. The observer that it yields also updates the board."""


def preview_sweep(sweep: PlannedSweep, *, offline: bool = False) -> SweepPlan:
    """Count what the sweep would run, and estimate the cost of what is missing.

    With `offline` the store is not read. A store that does not exist yet is not created.
    """
    plan, placement = sweep.plan, sweep.config.placement
    records = {}
    if not offline and has_store(placement, sweep.home):
        with connect(placement, sweep.home, tracking=False) as connections:
            records = connections.store.records(plan.trials)
    skipped = sweep.skipped(records)
    counts = count_plan(plan, records, sweep.pools(), skipped)
    costs = estimate(plan, records, placement, sweep.profile, skipped)
    return SweepPlan(plan, Status(records=records, skipped=skipped), counts, costs)


def sweep_status(sweep: PlannedSweep) -> SweepStatus:
    """Read the status of the sweep. A store that does not exist yet is not created."""
    placement, status = sweep.config.placement, Status(skipped=sweep.skipped({}))
    if has_store(placement, sweep.home):
        with connect(placement, sweep.home, tracking=False) as connections:
            status = read_status(sweep.plan, connections.store, sweep.strategy)
    return SweepStatus(sweep.plan, status)


def check_budget(sweep: PlannedSweep, budget: float | None) -> None:
    """Raise InputError for a budget that is no amount, and ConfigError if there are no prices."""
    if budget is None:
        return
    if not 0 < budget < math.inf:
        raise InputError(f"budget = {budget}; give a finite amount above 0")
    if sweep.profile is None:
        raise ConfigError(
            f"{sweep.label}: placement.cluster is missing, and a budget needs its prices; name a"
            " cluster profile there"
        )


def run_sweep(
    sweep: PlannedSweep,
    connections: Connections,
    folder: Path,
    *,
    budget: float | None = None,
    display: Display = no_display,
    observers: Sequence[Observer] = (),
) -> RunResult:
    """Run the missing trials, send them to MLflow, and write the report into `folder`.

    The timeline of the cluster is written into `folder` as well. There is no report if the store
    became unreachable. `budget` is an amount of money; it requires a cluster profile. `display`
    shows the progress, and `observers` receive the events of the run until they raise.

    Raises:
        InputError: a trial does not fit on the cluster, the cluster cannot be joined, the store is
            on this machine but the cluster has others, or `folder` cannot be written.
        StoreError: the store does not answer before or after the run.
        RunError: the run ended early without a known cause.
    """
    from orchestrator.monitor.budget import BudgetMeter
    from orchestrator.monitor.prometheus import PrometheusObserver
    from orchestrator.monitor.timeline import Timeline
    from orchestrator.ray_cluster.capacity import check_capacity, require_one_host
    from orchestrator.ray_cluster.node_watch import poll_nodes
    from orchestrator.tune import driver

    make_folder(folder)
    plan, placement, profile = sweep.plan, sweep.config.placement, sweep.profile
    _check_tracking(sweep, connections)
    store = connections.store
    records = store.records(plan.trials)
    skipped = sweep.skipped(records)
    counts = count_plan(plan, records, sweep.pools(), skipped)
    context = _context(sweep, connections)
    lease_watcher = LeaseWatcher(store, Leases(store.objects, context.run))
    with TrackingObserver(plan, store, connections.mlflow_uri, records) as tracking:
        board = board_from_records(plan, records, skipped=skipped)
        cost = trial_seconds(plan, records) or work_of
        pending = remaining_runs(plan, records, skipped)
        meter = BudgetMeter(profile, placement, budget, cost, pending) if profile else None
        with display(counts, board, cost) as progress:
            timeline = Timeline(placement)
            meters = [meter] if meter else []
            observer = CompositeObserver(
                progress,
                tracking,
                FailureObserver(store, plan),
                EventLog(folder, context.run),
                PrometheusObserver(board),
                timeline,
                *meters,
                *map(IsolatedObserver, observers),
            )
            checks = [require_one_host(sweep.label)] if placement.store == LOCAL else []
            summary = driver.run_plan(
                plan,
                set(records),
                partial(start_worker, context),
                placement,
                observer,
                cost,
                strategy=sweep.strategy,
                scores=scores_of(records),
                lease_watcher=lease_watcher,
                budget=meter,
                max_slots=max_slots(profile, placement) if profile else None,
                contexts=[
                    *checks,
                    check_capacity(sweep.label, placement),
                    poll_nodes(timeline.observe_nodes, *(m.observe_nodes for m in meters)),
                ],
            )
        usage = timeline.write(folder)
    result = _result(sweep, summary, usage)
    if meter and (bill := meter.bill()).hours:
        result = replace(result, bill=bill)
    if summary.exhausted:
        records = store.records(plan.trials)
        remaining = remaining_summary(plan, records, placement, profile, sweep.skipped(records))
        result = replace(result, remaining=remaining)
    if summary.outage:  # without the store there is nothing to report from
        return result
    report = report_sweep(sweep, connections, folder)
    _publish(sweep, connections, folder, complete=tracking.complete)
    return replace(result, report=report)


def _result(sweep: PlannedSweep, summary: Summary, usage: str) -> RunResult:
    return RunResult(
        name=sweep.plan.name,
        done=summary.finished,
        failed=summary.failed,
        blocked=summary.blocked,
        skipped=summary.skipped,
        seconds=summary.seconds,
        failures=summary.failures,
        interrupted=summary.interrupted,
        budget_spent=summary.exhausted,
        outage=summary.outage,
        usage=usage,
        bill=None,
        remaining="",
        report=None,
    )


def _context(sweep: PlannedSweep, connections: Connections) -> Context:
    placement = sweep.config.placement
    every = placement.checkpoint_every_s
    return Context(
        sweep=sweep.plan.name,
        run=uuid4().hex,
        store=connections.store_address,
        locations=sweep.inputs.locations(),
        cache=str(placement.cache or sweep.home / "cache"),
        tracking=connections.mlflow_uri,
        threads=placement.cpus,
        device="cuda" if placement.gpus else "cpu",
        gpus=placement.gpus,
        workers=placement.workers,
        nodes=placement.nodes,
        stall_timeout_s=placement.stall_timeout_s,
        checkpoint_every_s=None if every == "auto" else every,
        mtbf_s=placement.mtbf_s,
        modules=sweep.inputs.modules,
        credentials=aws_credentials(),
    )


def read_report(sweep: PlannedSweep, folder: Path | None) -> SweepReport:
    """Open the store of the sweep and return its report; write it too, unless `folder` is None."""
    placement = sweep.config.placement
    if folder is None and not has_store(placement, sweep.home):
        return SweepReport(sweep.plan, Status(skipped=sweep.skipped({})), sweep.config.win)
    with connect(placement, sweep.home, tracking=False) as connections:
        return report_sweep(sweep, connections, folder)


def report_sweep(sweep: PlannedSweep, connections: Connections, folder: Path | None) -> SweepReport:
    """Read the results from the store, and write the report into `folder`, unless it is None."""
    plan, store, rule = sweep.plan, connections.store, sweep.config.win
    records, failures = store.records(plan.trials), last_errors(store, plan)
    status = Status(
        records=records,
        failures={key: {"error": error} for key, error in failures.items()},
        skipped=sweep.skipped(records),
    )
    files = None
    if folder is not None:
        from orchestrator.report.write import write_report

        files = write_report(
            plan,
            records,
            store.ticket,
            folder,
            rule,
            command=f"sweepstakes run {sweep.argument}",
            failures=failures,
            skipped=status.skipped,
            mlflow=chart_link(sweep),
        )
    return SweepReport(plan, status, rule, files)


def sync_sweep(sweep: PlannedSweep, connections: Connections, folder: Path) -> int:
    """Rebuild the MLflow experiment; return the number of trials that it holds.

    Raises:
        ConfigError: the sweep has no tracking.
        InputError: MLflow cannot be used.
    """
    uri = connections.mlflow_uri
    if not uri:
        raise ConfigError(
            f"{sweep.label}: placement.tracking = none; set it to `local` or to an MLflow server"
        )
    from mlflow.exceptions import MlflowException

    from orchestrator import tracking
    from orchestrator.tracking.experiment import first_line

    records = connections.store.records(sweep.plan.trials)
    status = Status(records=records, skipped=sweep.skipped(records))
    headline = SweepReport(sweep.plan, status, sweep.config.win).headline()
    try:
        tracking.sync(sweep.plan, records, uri, folder if folder.exists() else None, headline)
    except MlflowException as error:
        raise InputError(
            f"{uri}: MLflow cannot be used ({first_line(error)}); check `placement.tracking` and"
            " that the server is running"
        ) from error
    return len(records)


def _check_tracking(sweep: PlannedSweep, connections: Connections) -> None:
    """Warn if MLflow does not answer. No trial depends on it, so the run goes on."""
    if connections.mlflow_uri:
        from orchestrator.tracking.server import find_experiment

        try:
            find_experiment(connections.mlflow_uri, sweep.plan.name)
        except InputError as error:
            catch_up = f"`sweepstakes sync {sweep.argument}` sends the results later"
            log.warning("%s; the run goes on without it, and %s", error, catch_up)


def _publish(
    sweep: PlannedSweep, connections: Connections, folder: Path, *, complete: bool
) -> None:
    """Copy the report into MLflow, if the sweep has one; only warn if it is behind or fails."""
    try:
        if not complete:
            raise InputError(f"{connections.mlflow_uri}: MLflow is behind")
        if connections.mlflow_uri:
            sync_sweep(sweep, connections, folder)
    except InputError as error:
        log.warning("%s; catch up with `sweepstakes sync %s`", error, sweep.argument)
