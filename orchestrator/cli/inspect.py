"""`sweepstakes status`, `logs` and `explain`: inspect a sweep, from any machine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from orchestrator.api import workspace
from orchestrator.api.workspace import PlannedSweep
from orchestrator.cli.shared import (
    KEY,
    STORE_OF,
    SWEEP,
    err,
    open_store,
    out,
    placement_of,
    read_sweep,
)
from orchestrator.errors import InputError

KEY_PREFIX = re.compile(r"[0-9a-f]{1,64}")


@click.command()
@SWEEP
@click.option("--watch", is_flag=True, help="Refresh every few seconds until the sweep is done.")
@click.pass_obj
def status(home: Path, sweep: Path, watch: bool) -> None:
    """Show the progress of a sweep, its workers and its failures.

    It reads the store only, so it works on any machine and for any run of the sweep.
    """
    from orchestrator.monitor.status import read_status, render_status, watch_status

    planned_sweep = read_sweep(sweep, home)
    plan, strategy = planned_sweep.plan, planned_sweep.strategy
    with open_store(planned_sweep, home, tracking=False) as connections:
        if watch:
            watch_status(plan, connections.store, str(sweep), out, strategy)
        else:
            status = read_status(plan, connections.store, strategy)
            out.print(render_status(plan, status, str(sweep)))


@click.command()
@KEY
@STORE_OF
@click.pass_obj
def logs(home: Path, key: str, sweep: Path | None) -> None:
    """Print the log of a trial: all attempts. KEY may be a unique prefix."""
    from orchestrator.api.tickets import find_log

    if not KEY_PREFIX.fullmatch(key):
        raise InputError(f"{key!r} is not a key; keys have up to 64 characters from 0-9 and a-f")
    placement = placement_of(sweep)
    if not workspace.has_store(placement, home):
        raise InputError(
            f"--home {home}: no sweep has run here; use another folder, or --sweep SWEEP"
        )
    with workspace.connect(placement, home, tracking=False) as connections:
        click.echo(find_log(connections.store, key), nl=False)


@click.command()
@SWEEP
@KEY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def explain(home: Path, sweep: Path, key: str, as_json: bool) -> None:
    """Show a trial's state, dependencies and results.

    It shows why the trial runs or does not, what happened to it in runs from this machine, which
    scores depend on it, and where its ticket, scores, log and MLflow run are. KEY may be a unique
    prefix.
    """
    from orchestrator.api import session
    from orchestrator.monitor import explain
    from orchestrator.monitor.event_log import read_events

    planned_sweep = read_sweep(sweep, home)
    plan = planned_sweep.plan
    trial = explain.find_trial(plan, key)
    with err.status("opening the store"):
        status = session.sweep_status(planned_sweep).stored
    folder = workspace.report_folder(planned_sweep)
    events = read_events(folder, trial.produced_by or trial.key)
    rows = explain.explain(
        plan, trial, status, str(sweep), mlflow=_mlflow(planned_sweep), events=events
    )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    for heading, lines in rows.items():
        table.add_row(heading, Text("\n".join(lines), overflow="fold"))
    out.print(table)


def _mlflow(sweep: PlannedSweep) -> list[str]:
    """Where the sweep's MLflow runs can be viewed; empty without tracking."""
    tracking, link = sweep.config.placement.tracking, workspace.chart_link(sweep)
    if tracking == workspace.NO_TRACKING:
        return []
    if tracking == workspace.LOCAL:
        return ["sweepstakes ui", *([link] if link else [])]
    return [link or tracking]
