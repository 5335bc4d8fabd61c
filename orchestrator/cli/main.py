"""The main command: `run`, `report`, `sync` and `ui`; exit codes for all commands.

What a command needs is imported when the command runs.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Never

import click
from rich.markup import escape
from rich.text import Text

from orchestrator import __version__
from orchestrator.api import workspace
from orchestrator.cli.cluster import cluster
from orchestrator.cli.data import data
from orchestrator.cli.inspect import explain, logs, status
from orchestrator.cli.plan import plan
from orchestrator.cli.schema import schema
from orchestrator.cli.shared import (
    EXIT_INCOMPLETE,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    SWEEP,
    err,
    open_store,
    out,
    read_sweep,
)
from orchestrator.cli.submit import submit
from orchestrator.cli.tickets import tickets
from orchestrator.errors import SweepstakesError

if TYPE_CHECKING:
    from orchestrator.api.results import RunResult
    from orchestrator.api.workspace import PlannedSweep
    from orchestrator.report.write import ReportFiles

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sweepstakes")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=workspace.default_home,
    envvar=workspace.HOME_VARIABLE,
    show_default=".sweepstakes; in a Ray job ~/.sweepstakes",
    help="Folder for reports and for the data of the local servers.",
)
@click.pass_context
def cli(context: click.Context, home: Path) -> None:
    """Run lottery-ticket sweeps over vision-and-language models.

    A sweep is one YAML file. `plan` shows what it would run, `run` runs what is missing, and the
    other commands inspect the results.
    """
    context.obj = home.absolute()


@cli.command()
@SWEEP
@click.option(
    "--budget",
    type=float,
    metavar="AMOUNT",
    help="Do not start trials that would exceed this amount of money, at the prices of the profile"
    " in `placement.cluster`.",
)
@click.pass_obj
def run(home: Path, sweep: Path, budget: float | None) -> None:
    """Run the missing trials of a sweep.

    They run on this machine, within a Ray job on its cluster, or on the cluster that RAY_ADDRESS
    names. Committed trials are never lost: after an interruption, run the same command again.

    \b
    Exit codes:
      0    all trials are done, or skipped by the sweep's `strategy`
      1    trials failed or are blocked, the budget is spent,
           or the store stopped answering
      2    invalid input
      130  interrupted
    """
    from orchestrator.api import session
    from orchestrator.cli.verdicts import print_verdicts
    from orchestrator.monitor.terminal import terminal_display

    planned_sweep = read_sweep(sweep, home)
    session.check_budget(planned_sweep, budget)
    with open_store(planned_sweep, home, tracking=True) as connections:
        result = session.run_sweep(
            planned_sweep,
            connections,
            workspace.report_folder(planned_sweep),
            budget=budget,
            display=partial(terminal_display, out),
        )
        for line in (result.usage, str(result.bill or ""), result.remaining):
            if line:
                out.print(line)
        if result.report and result.report.files:
            print_verdicts(result.report.files)
            _print_files(result.report.files)
            _print_link(planned_sweep)
            out.print("next      sweepstakes ui")
            out.print("          sweepstakes tickets list")
    _print_problems(result, sweep)
    sys.exit(_exit_code(result))


def _print_problems(result: RunResult, sweep: Path) -> None:
    for key, error in result.failures.items():
        err.print(f"[red]failed[/] {key[:12]}: {escape(error)}", soft_wrap=True)
    if result.blocked:
        err.print(f"{result.blocked} blocked: they depend on failed trials")
    if result.outage:
        err.print(f"[red]stopped[/]: {escape(result.outage)}", soft_wrap=True)
    if result.budget_spent:
        err.print("[red]stopped[/]: the budget is spent; run again with a higher one")
    if result.interrupted or result.outage or result.budget_spent:
        err.print(
            f"committed trials are kept; resume with `sweepstakes run {sweep}`", soft_wrap=True
        )


def _print_files(files: ReportFiles) -> None:
    out.print(f"report    {files.page}", soft_wrap=True)
    for figure in files.figures[:1]:
        out.print(f"figure    {figure}", soft_wrap=True)


def _print_link(sweep: PlannedSweep) -> None:
    """Print the link to the sweep's curves in MLflow, if it has them."""
    if link := workspace.chart_link(sweep):
        out.print(f"MLflow    {link}", soft_wrap=True)


def _exit_code(result: RunResult) -> int:
    if result.interrupted:
        return EXIT_INTERRUPTED
    return 0 if result.complete else EXIT_INCOMPLETE


@cli.command()
@SWEEP
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Output folder. Default: HOME/reports/NAME.",
)
@click.pass_obj
def report(home: Path, sweep: Path, folder: Path | None) -> None:
    """Write the report of a sweep from its store.

    It consists of tables, figures and a self-contained HTML page.
    """
    from orchestrator.api import session
    from orchestrator.cli.verdicts import print_verdicts

    planned_sweep = read_sweep(sweep, home)
    folder = folder or workspace.report_folder(planned_sweep)
    with open_store(planned_sweep, home, tracking=False) as connections:
        files = session.report_sweep(planned_sweep, connections, folder).files
    assert files is not None
    print_verdicts(files)
    _print_files(files)
    _print_link(planned_sweep)


@cli.command()
@SWEEP
@click.pass_obj
def sync(home: Path, sweep: Path) -> None:
    """Rebuild the MLflow experiment of a sweep from its store."""
    from orchestrator.api import session

    planned_sweep = read_sweep(sweep, home)
    folder = workspace.report_folder(planned_sweep)
    with open_store(planned_sweep, home, tracking=True) as connections:
        count = session.sync_sweep(planned_sweep, connections, folder)
        _print_link(planned_sweep)
    out.print(f"MLflow holds the {count} committed trials of {planned_sweep.plan.name}")


@cli.command()
@click.pass_obj
def ui(home: Path) -> None:
    """Serve the MLflow UI of the local store until Ctrl-C.

    It prints the links to the curves of the sweeps that ran last.
    """
    from orchestrator.tracking.server import newest_experiments
    from orchestrator.tracking.views import chart_link

    with workspace.local_services(home, ["mlflow"]) as services:
        uri = services.mlflow_uri
        out.print(f"MLflow    {uri}    (stop with Ctrl-C)")
        for name, experiment in newest_experiments(uri).items():
            out.print(f"{name:<9} {chart_link(uri, experiment)}", soft_wrap=True)
        while True:
            time.sleep(3600)


for command in (status, logs, explain, tickets, data, submit, plan, cluster, schema):
    cli.add_command(command)


def _interrupt(signum: int, frame: FrameType | None) -> Never:
    """Treat SIGTERM like Ctrl-C, so that started servers are stopped."""
    raise KeyboardInterrupt


def main() -> None:
    """Run a command. Every expected error becomes one line and an exit code."""
    from cluster.errors import ServiceError
    from trainables.errors import TrainableError

    signal.signal(signal.SIGTERM, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # θ, ● and – under a locale of ASCII
        sys.stdout.reconfigure(errors="replace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns at each retry to MLflow
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        err.print("interrupted; committed trials are kept")
        sys.exit(EXIT_INTERRUPTED)
    except SweepstakesError as error:
        _exit(str(error), error.exit_code)
    except (TrainableError, ServiceError) as error:
        _exit(str(error), EXIT_INPUT)
    except OSError as error:
        if error.errno not in DISK_FULL_ERRORS:
            raise
        _discard_output()
        file = error.filename or "a file or the output"
        _exit(f"{file}: {error.strerror}; free some space, or write elsewhere", EXIT_INCOMPLETE)


def _exit(error: str, code: int) -> Never:
    err.print(Text.assemble(("error", "red"), f": {error}"), soft_wrap=True)
    sys.exit(code)


def _discard_output() -> None:
    """Discard buffered output if standard output is full: flushing it at exit would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
