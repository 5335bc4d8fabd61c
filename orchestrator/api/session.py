"""What a command does once the sweep is planned and the store is open."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from orchestrator import report as reports
from orchestrator.api.workspace import LOCAL, Connected, Planned
from orchestrator.cost import prices
from orchestrator.cost.estimate import left_words
from orchestrator.credentials import AWS_VARIABLES
from orchestrator.errors import ConfigError, InputError
from orchestrator.monitor import status
from orchestrator.monitor.board import board_of
from orchestrator.monitor.observers import Mirror, Notes, Several
from orchestrator.monitor.terminal import Progress, clock
from orchestrator.plan import work as costs
from orchestrator.plan.counts import preview, runs_left
from orchestrator.store.lease_watch import Lookout
from orchestrator.store.leases import Claims
from orchestrator.worker.protocol import Context
from orchestrator.worker.start import start_worker

if TYPE_CHECKING:
    from orchestrator.tune.driver import Summary

log = logging.getLogger(__name__)


def run_sweep(
    planned: Planned, found: Connected, console: Console, folder: Path, budget: float | None
) -> tuple[Summary, reports.ReportFiles | None]:
    """Run what is missing under a live display, mirror it to MLflow as it comes, and write the
    report and the cluster's timeline into `folder`. `budget` is money, for which the sweep names a
    cluster profile. There is no report where the store went away."""
    from orchestrator.monitor.budget import Meter
    from orchestrator.monitor.prometheus import Metrics
    from orchestrator.monitor.timeline import Timeline
    from orchestrator.ray_cluster.capacity import one_host, roomy
    from orchestrator.ray_cluster.node_watch import shown
    from orchestrator.tune import driver

    reports.make_folder(folder)
    plan, placement = planned.plan, planned.sweep.placement
    records = found.store.records(plan.trials)
    ahead = preview(plan, records, planned.pools())
    console.print(
        f"[bold]{plan.name}[/]  {ahead.trials} trials for {ahead.cells} scores"
        f" (naively {ahead.naive_trials}), {ahead.to_run} to run"
    )
    context = _context(planned, found)
    lookout = Lookout(found.store, Claims(found.store.objects, context.run))
    with Mirror(plan, found.store, found.tracking, records) as mirror:
        board = board_of(plan, records)
        cost = costs.seconds(plan, records) or costs.work_of
        profile = planned.profile
        left = runs_left(plan, records)
        meter = Meter(profile, placement, budget, cost, left) if profile else None
        with Progress(board, console, cost) as progress:
            start = partial(start_worker, context)
            timeline = Timeline(placement)
            local_store = [one_host(planned.path)] if placement.store == LOCAL else []
            meters = [meter] if meter else []
            observer = Several(
                *(progress, mirror, Notes(found.store, plan), Metrics(board), timeline), *meters
            )
            summary = driver.run(
                *(plan, set(records), start, placement, observer, cost),
                lookout=lookout,
                meter=meter,
                most=prices.places(profile, placement) if profile else None,
                attend=[
                    *local_store,
                    roomy(planned.path, placement),
                    shown(timeline.see, *(meter.see for meter in meters)),
                ],
            )
        console.print(f"{board.summary()} in {clock(summary.seconds)}")
        if told := timeline.write(folder):
            console.print(told)
    if meter and (bill := meter.bill()).hours:
        console.print(str(bill))
    if summary.exhausted:
        records = found.store.records(plan.trials)
        console.print(left_words(plan, records, placement, profile))
    if summary.outage:  # without the store there is nothing to report from
        return summary, None
    files = report(planned, found, folder)
    _publish(planned, found, folder, whole=mirror.whole)
    return summary, files


def _context(planned: Planned, found: Connected) -> Context:
    placement = planned.sweep.placement
    every = placement.checkpoint_every_s
    return Context(
        sweep=planned.plan.name,
        run=uuid4().hex,
        store=found.address,
        locations=planned.inputs.locations(),
        cache=str(placement.cache or planned.home / "cache"),
        tracking=found.tracking,
        threads=placement.cpus,
        device="cuda" if placement.gpus else "cpu",
        gpus=placement.gpus,
        workers=placement.workers,
        nodes=placement.nodes,
        stall_s=placement.stall_s,
        checkpoint_every_s=None if every == "auto" else every,
        lost_every_s=placement.lost_every_s,
        credentials={name: os.environ[name] for name in AWS_VARIABLES if name in os.environ},
    )


def report(planned: Planned, found: Connected, folder: Path) -> reports.ReportFiles:
    """Write the report of what the store holds of the sweep."""
    plan = planned.plan
    return reports.write_report(
        plan,
        found.store.records(plan.trials),
        found.store.ticket,
        folder,
        planned.sweep.win,
        command=f"sweepstakes run {planned.path}",
        failures=status.failures(found.store, plan),
    )


TOLD = ("schedule", "model, task", "tickets", "relaxed to", "score there")
MOST_VERDICTS = 16
"""Rows of the verdict table in a terminal; the headline says what more of them come to."""
CONTROLS = ("random there", "layer-matched there", "dense")


def print_verdicts(files: reports.ReportFiles, console: Console) -> None:
    """The verdict table as far as a terminal holds it; the page has the rest."""
    header, rows = reports.verdict_table(files.verdicts)
    if len(rows) <= MOST_VERDICTS:
        _print_table(header, rows, console)
    for sentence in files.headline:
        console.print(sentence)
    console.print()


def _print_table(header: list[str], rows: list[list[str]], console: Console) -> None:
    chosen = [index for index, name in enumerate(header) if name in (*TOLD, *CONTROLS)]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for index in chosen:
        name = header[index].removesuffix(" there").replace("relaxed to", "wins to")
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(row[index].split(" (")[0] for index in chosen))
    console.print(table)
    console.print()


def sync(planned: Planned, found: Connected, folder: Path) -> int:
    """Rebuild the MLflow experiment; returns the number of trials that it holds."""
    if not found.tracking:
        raise ConfigError(f"{planned.path}: placement.tracking = none; name an MLflow to write to")
    from mlflow.exceptions import MlflowException

    from orchestrator import tracking
    from orchestrator.tracking.experiment import first_line

    records = found.store.records(planned.plan.trials)
    try:
        tracking.sync(planned.plan, records, found.tracking, folder if folder.exists() else None)
    except MlflowException as error:
        raise InputError(
            f"{found.tracking}: MLflow cannot be used ({first_line(error)}); check"
            " `placement.tracking` and that the server runs"
        ) from error
    return len(records)


def _publish(planned: Planned, found: Connected, folder: Path, *, whole: bool) -> None:
    """Copy the report into MLflow, if there is one that answers and is not far behind."""
    try:
        if not whole:
            raise InputError(f"{found.tracking}: MLflow is behind")
        if found.tracking:
            sync(planned, found, folder)
    except InputError as error:
        log.warning("%s; `sweepstakes sync %s` catches up", error, planned.path)
