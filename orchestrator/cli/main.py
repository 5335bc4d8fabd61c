"""The command line: parses, calls, prints. What a command needs is imported when it runs."""

from __future__ import annotations

import errno
import io
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Never

import click
from rich.markup import escape
from rich.text import Text

from orchestrator import __version__
from orchestrator.api import workspace
from orchestrator.cli import cluster as cli_cluster
from orchestrator.cli import data as cli_data
from orchestrator.cli import inspect as cli_look
from orchestrator.cli import plan as cli_plan
from orchestrator.cli import shared as cli_shared
from orchestrator.cli import submit as cli_jobs
from orchestrator.cli import tickets as cli_tickets
from orchestrator.cli.shared import (
    EXIT_INCOMPLETE,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    SWEEP,
    err,
    out,
)
from orchestrator.errors import ConfigError, SweepstakesError

if TYPE_CHECKING:
    from orchestrator.report import ReportFiles
    from orchestrator.tune.driver import Summary

FULL = (errno.ENOSPC, errno.EDQUOT)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sweepstakes")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=cli_jobs.default_home,
    envvar="SWEEPSTAKES_HOME",
    show_default=".sweepstakes; in a Ray job ~/.sweepstakes",
    help="Folder of the local servers' data and of the reports.",
)
@click.pass_context
def cli(context: click.Context, home: Path) -> None:
    """Lottery-ticket sweeps over vision-and-language models.

    A sweep is one YAML file. `plan` shows what it would do, `run` does what is not done yet, and
    every other command looks at what is there.
    """
    context.obj = home.absolute()


@cli.command()
@SWEEP
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    callback=cli_shared.finite,
    metavar="MONEY",
    help="Begin no trial that would pass it, by the prices of `placement.cluster`.",
)
@click.pass_obj
def run(home: Path, sweep: Path, budget: float | None) -> None:
    """Run what a sweep still lacks.

    On this machine, or in a Ray job on its cluster.

    Exit code 0: all done. 1: some trials failed or are blocked, or the budget is reached. 130:
    interrupted. What is committed is kept; the same command goes on from there.
    """
    from orchestrator.api import session

    planned = cli_shared.planned(sweep, home)
    if budget is not None and planned.profile is None:
        raise ConfigError(
            f"{sweep}: placement.cluster is missing, and --budget needs its prices; name a cluster"
            " profile there"
        )
    with cli_shared.opened(planned, home, tracking=True) as found:
        folder = _reports(home, planned.plan.name)
        summary, files = session.run_sweep(planned, found, out, folder, budget)
        if files:
            session.print_verdicts(files, out)
            _print_files(files)
            out.print("look on   sweepstakes ui")
            out.print("          sweepstakes tickets list")
    _print_end(summary, sweep)
    sys.exit(_exit_code(summary))


def _print_end(summary: Summary, sweep: Path) -> None:
    for head, error in summary.failures.items():
        err.print(f"[red]failed[/] {head[:12]}: {escape(error)}", soft_wrap=True)
    if summary.blocked:
        err.print(f"{summary.blocked} blocked: they need what failed")
    if summary.outage:
        err.print(f"[red]stopped[/]: {escape(summary.outage)}", soft_wrap=True)
    if summary.exhausted:
        err.print("[red]stopped[/]: the budget is reached; run it again with another")
    if summary.interrupted or summary.outage or summary.exhausted:
        err.print(
            f"nothing committed is lost; go on with `sweepstakes run {sweep}`", soft_wrap=True
        )


def _print_files(files: ReportFiles) -> None:
    out.print(f"report    {files.page}", soft_wrap=True)
    for figure in files.figures[:1]:
        out.print(f"figure    {figure}", soft_wrap=True)


def _exit_code(summary: Summary) -> int:
    if summary.interrupted:
        return EXIT_INTERRUPTED
    short = summary.failed or summary.blocked or summary.outage or summary.exhausted
    return EXIT_INCOMPLETE if short else 0


@cli.command()
@SWEEP
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write to; by default HOME/reports/NAME.",
)
@click.pass_obj
def report(home: Path, sweep: Path, folder: Path | None) -> None:
    """Write tables, figures and one page, from the store alone.

    The page is HTML and needs nothing beside it.
    """
    from orchestrator.api import session

    planned = cli_shared.planned(sweep, home)
    with cli_shared.opened(planned, home, tracking=False) as found:
        files = session.report(planned, found, folder or _reports(home, planned.plan.name))
    session.print_verdicts(files, out)
    _print_files(files)


@cli.command()
@SWEEP
@click.pass_obj
def sync(home: Path, sweep: Path) -> None:
    """Rebuild the sweep's MLflow experiment from the store."""
    from orchestrator.api import session

    planned = cli_shared.planned(sweep, home)
    with cli_shared.opened(planned, home, tracking=True) as found:
        count = session.sync(planned, found, _reports(home, planned.plan.name))
    out.print(f"MLflow holds the {count} committed trials of {planned.plan.name}")


@cli.command()
@click.pass_obj
def ui(home: Path) -> None:
    """Serve the MLflow UI on this machine until Ctrl-C."""
    with workspace.serving(home, ["mlflow"]) as services:
        out.print(f"MLflow    {services.mlflow_uri}    (Ctrl-C ends it)")
        while True:
            time.sleep(3600)


cli.add_command(cli_look.status)
cli.add_command(cli_look.logs)
cli.add_command(cli_look.explain)
cli.add_command(cli_tickets.tickets)
cli.add_command(cli_data.data)
cli.add_command(cli_jobs.submit)
cli.add_command(cli_plan.plan)
cli.add_command(cli_cluster.cluster)


def _reports(home: Path, name: str) -> Path:
    return home / "reports" / name


def _interrupt(signum: int, frame: FrameType | None) -> Never:
    """SIGTERM is Ctrl-C: what was started is stopped on the way out."""
    raise KeyboardInterrupt


def main() -> None:
    """Runs a command: one line and an exit code for everything that can be foreseen."""
    from cluster.errors import ServiceError
    from trainables.errors import TrainableError

    signal.signal(signal.SIGTERM, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # θ, ● and – where the locale has only ASCII
        sys.stdout.reconfigure(errors="replace")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns at each retry to MLflow
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        err.print("interrupted; nothing committed is lost")
        sys.exit(EXIT_INTERRUPTED)
    except SweepstakesError as error:
        _end(str(error), error.exit_code)
    except (TrainableError, ServiceError) as error:
        _end(str(error), EXIT_INPUT)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _drop_output()
        where = error.filename or "a file, or the output"
        _end(f"{where}: {error.strerror}; make room, or write it elsewhere", EXIT_INCOMPLETE)


def _end(error: str, code: int) -> Never:
    err.print(Text.assemble(("error", "red"), f": {error}"), soft_wrap=True)
    sys.exit(code)


def _drop_output() -> None:
    """Standard output may be what is full; what it still held would be missed at the very end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
