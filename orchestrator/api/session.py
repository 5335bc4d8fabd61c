"""Operations on a planned sweep whose store is open: run, report, rebuild the MLflow experiment."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rich.console import Console

from orchestrator.api.workspace import LOCAL, Connections, PlannedSweep
from orchestrator.cost.estimate import remaining_summary
from orchestrator.cost.prices import max_slots
from orchestrator.credentials import aws_credentials
from orchestrator.errors import ConfigError, InputError
from orchestrator.monitor.board import board_from_records
from orchestrator.monitor.event_log import EventLog
from orchestrator.monitor.observers import CompositeObserver, FailureObserver, TrackingObserver
from orchestrator.monitor.status import last_errors
from orchestrator.monitor.terminal import TerminalProgress, format_duration
from orchestrator.plan.counts import count_plan, remaining_runs
from orchestrator.plan.work import trial_seconds, work_of
from orchestrator.report import ReportFiles, make_folder, write_report
from orchestrator.schedule.strategy import scores_of
from orchestrator.store.lease_watch import LeaseWatcher
from orchestrator.store.leases import Leases
from orchestrator.worker.protocol import Context
from orchestrator.worker.start import start_worker

if TYPE_CHECKING:
    from orchestrator.tune.driver import Summary

log = logging.getLogger(__name__)


def run_sweep(
    sweep: PlannedSweep,
    connections: Connections,
    console: Console,
    folder: Path,
    budget: float | None,
) -> tuple[Summary, ReportFiles | None]:
    """Run the missing trials with a live display on `console`, and send them to MLflow.

    The report and the timeline of the cluster are written into `folder`. There is no report if the
    store became unreachable. `budget` is an amount of money; it requires a cluster profile.

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
    store = connections.store
    records = store.records(plan.trials)
    skipped = sweep.skipped(records)
    counts = count_plan(plan, records, sweep.pools(), skipped)
    console.print(
        f"[bold]{plan.name}[/]  {counts.training_runs} trials for {counts.cells} scores"
        f" ({counts.naive_training_runs} without sharing), {counts.new_runs} to run"
    )
    context = _context(sweep, connections)
    lease_watcher = LeaseWatcher(store, Leases(store.objects, context.run))
    with (
        TrackingObserver(plan, store, connections.mlflow_uri, records) as tracking,
        EventLog(folder, context.run) as events,
    ):
        board = board_from_records(plan, records, skipped=skipped)
        cost = trial_seconds(plan, records) or work_of
        pending = remaining_runs(plan, records, skipped)
        meter = BudgetMeter(profile, placement, budget, cost, pending) if profile else None
        with TerminalProgress(board, console, cost) as progress:
            timeline = Timeline(placement)
            meters = [meter] if meter else []
            observer = CompositeObserver(
                progress,
                tracking,
                FailureObserver(store, plan),
                events,
                PrometheusObserver(board),
                timeline,
                *meters,
            )
            checks = [require_one_host(sweep.path)] if placement.store == LOCAL else []
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
                    check_capacity(sweep.path, placement),
                    poll_nodes(timeline.observe_nodes, *(m.observe_nodes for m in meters)),
                ],
            )
        console.print(f"{board.summary()} in {format_duration(summary.seconds)}")
        if usage := timeline.write(folder):
            console.print(usage)
    if meter and (bill := meter.bill()).hours:
        console.print(str(bill))
    if summary.exhausted:
        records = store.records(plan.trials)
        skipped = sweep.skipped(records)
        console.print(remaining_summary(plan, records, placement, profile, skipped))
    if summary.outage:  # without the store there is nothing to report from
        return summary, None
    files = report_sweep(sweep, connections, folder)
    _publish(sweep, connections, folder, complete=tracking.complete)
    return summary, files


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


def report_sweep(sweep: PlannedSweep, connections: Connections, folder: Path) -> ReportFiles:
    """Write the report from the sweep's records in the store."""
    plan = sweep.plan
    records = connections.store.records(plan.trials)
    return write_report(
        plan,
        records,
        connections.store.ticket,
        folder,
        sweep.config.win,
        command=f"sweepstakes run {sweep.path}",
        failures=last_errors(connections.store, plan),
        skipped=sweep.skipped(records),
    )


def sync_sweep(sweep: PlannedSweep, connections: Connections, folder: Path) -> int:
    """Rebuild the MLflow experiment; return the number of trials that it holds.

    Raises:
        ConfigError: the sweep has no tracking.
        InputError: MLflow cannot be used.
    """
    uri = connections.mlflow_uri
    if not uri:
        raise ConfigError(
            f"{sweep.path}: placement.tracking = none; set it to `local` or to an MLflow server"
        )
    from mlflow.exceptions import MlflowException

    from orchestrator import tracking
    from orchestrator.tracking.experiment import first_line

    records = connections.store.records(sweep.plan.trials)
    try:
        tracking.sync(sweep.plan, records, uri, folder if folder.exists() else None)
    except MlflowException as error:
        raise InputError(
            f"{uri}: MLflow cannot be used ({first_line(error)}); check `placement.tracking` and"
            " that the server is running"
        ) from error
    return len(records)


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
        log.warning("%s; catch up with `sweepstakes sync %s`", error, sweep.path)
