"""The command line: parses, calls, prints. What a command needs is imported when it runs."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Never

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator import __version__, cli_data, cli_tickets, preview, workspace
from orchestrator.errors import SweepstakesError
from orchestrator.preview import Preview
from orchestrator.workspace import Connected, Planned

if TYPE_CHECKING:
    from orchestrator.driver import Summary
    from orchestrator.report import ReportFiles

EXIT_INCOMPLETE, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SWEEP = click.argument("sweep", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sweepstakes")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=".sweepstakes",
    envvar="SWEEPSTAKES_HOME",
    show_default=True,
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
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--why", metavar="KEY", help="Say why the trial KEY runs or is skipped.")
@click.option("--offline", is_flag=True, help="Count without the store and the data files.")
@click.pass_obj
def plan(home: Path, sweep: Path, as_json: bool, why: str | None, offline: bool) -> None:
    """Show the trials of a sweep, what exists, and what the rest would cost."""
    planned = _planned(sweep, home, offline=offline)
    placement = planned.sweep.placement
    records = {}
    if not offline and workspace.has_store(placement, home):
        with _opened(planned, home, tracking=False) as found:
            records = found.store.records(planned.plan.trials)
    if why is not None:
        click.echo(preview.why(planned.plan, why, records))
        return
    shown = preview.preview(planned.plan, records, planned.pools(), placement.gpus)
    if as_json:
        click.echo(json.dumps(shown.as_json(), indent=2))
    else:
        out.print(_preview_table(shown))
        if len(shown.blocks) > 1:
            out.print()
            out.print(_blocks_table(shown))


def _blocks_table(shown: Preview) -> Table:
    """A row per study: what it asks for, what that takes, and what of it is new."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("study")
    pretraining = bool(shown.rounds)
    names = ("scores", "naive trials", "new trials", "naive rounds", "new rounds", "of the work")
    for name in names:
        if pretraining or "rounds" not in name:
            table.add_column(name, justify="right")
    for block in (*shown.blocks, None):
        of = block or shown
        counts = [f"{of.naive_trials:,}", f"{of.trials:,}"]
        if pretraining:
            counts += [f"{of.naive_rounds:,}", f"{of.rounds:,}"]
        share = f"{block.work:.0%}" if block else ""
        name = block.study if block else "[bold]all[/]"
        table.add_row(name, f"{of.cells:,}", *counts, share)
    return table


def _preview_table(shown: Preview) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    unmeasured = "not measured yet"
    hours = unmeasured if shown.slot_hours is None else f"{shown.slot_hours:,.2f}"
    pace = f"left; {shown.measured:.0%} of the runs by a measured pace, the rest by their work"
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in shown.by_kind.items())
    rows = [
        ("cells", f"{shown.cells:,}", "scores the sweep asks for"),
        ("trials", f"{shown.trials:,}", "training runs, each once"),
        ("naive trials", f"{shown.naive_trials:,}", "the same with every cell on its own"),
        ("by kind", kinds, ""),
        ("existing", f"{shown.existing:,}", "of any kind, in the store"),
        ("to run", f"{shown.to_run:,}", "training runs left"),
        ("replays", f"{shown.replays:,}", "runs repeated for a later wish"),
        ("critical path", f"{shown.critical_path:,}", "training runs in a row"),
        ("steps", f"{shown.steps:,}", "optimizer steps left"),
        ("slot hours", hours, pace if shown.slot_hours is not None else ""),
    ]
    if shown.rounds:
        remark = f"pre-training runs, each once; {shown.naive_rounds:,} naively"
        rows.insert(3, ("rounds", f"{shown.rounds:,}", remark))
    if shown.gpu_hours is not None:
        rows.append(("GPU hours", f"{shown.gpu_hours:,.2f}", "of these slots"))
    rows.append(("store", _size(shown.store_bytes), "tickets and records to come"))
    for name, value, remark in rows:
        table.add_row(f"[bold]{name}[/]", value, f"[dim]{remark}[/]")
    return table


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@cli.command()
@SWEEP
@click.pass_obj
def run(home: Path, sweep: Path) -> None:
    """Run what a sweep still lacks: on this machine, or in a Ray job on its cluster.

    Exit code 0: all done. 1: some trials failed or are blocked. 130: interrupted. What is
    committed is kept; the same command goes on from there.
    """
    from orchestrator import session

    planned = _planned(sweep, home)
    with _opened(planned, home, tracking=True) as found:
        summary = session.run_sweep(planned, found, out)
        if not summary.outage:  # without the store there is nothing to report from
            files = session.report(planned, found, _reports(home, planned.plan.name))
            session.publish(planned, found, files)
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
    if summary.interrupted or summary.outage:
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
    return EXIT_INCOMPLETE if summary.failed or summary.blocked or summary.outage else 0


@cli.command()
@SWEEP
@click.option("--watch", is_flag=True, help="Look again every few seconds until all is done.")
@click.pass_obj
def status(home: Path, sweep: Path, watch: bool) -> None:
    """Show how far a sweep is, from the store alone."""
    from orchestrator import session

    planned = _planned(sweep, home)
    with _opened(planned, home, tracking=False) as found:
        session.show_status(planned, found, out, watch=watch)


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
    """Write tables, figures and one self-contained HTML page, from the store alone."""
    from orchestrator import session

    planned = _planned(sweep, home)
    with _opened(planned, home, tracking=False) as found:
        files = session.report(planned, found, folder or _reports(home, planned.plan.name))
    session.print_verdicts(files, out)
    _print_files(files)


@cli.command()
@SWEEP
@click.pass_obj
def sync(home: Path, sweep: Path) -> None:
    """Rebuild the sweep's MLflow experiment from the store."""
    from orchestrator import session

    planned = _planned(sweep, home)
    with _opened(planned, home, tracking=True) as found:
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


def _planned(sweep: Path, home: Path, *, offline: bool = False) -> Planned:
    """The plan of a sweep file; data is hashed when it is first met, at about 1 GB/s."""
    with err.status("reading the sweep, its weights and its data"):
        return workspace.planned(sweep, home, offline=offline)


@contextmanager
def _opened(planned: Planned, home: Path, *, tracking: bool) -> Iterator[Connected]:
    """The store of a sweep, with a word on what is being waited for."""
    with ExitStack() as stack:
        with err.status("opening the store"):
            placement = planned.sweep.placement
            found = stack.enter_context(workspace.connected(placement, home, tracking=tracking))
        yield found


cli.add_command(cli_tickets.tickets)
cli.add_command(cli_data.data)


def _reports(home: Path, name: str) -> Path:
    return home / "reports" / name


def _interrupt(signum: int, frame: FrameType | None) -> Never:
    """SIGTERM is Ctrl-C: what was started is stopped on the way out."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: one line and an exit code for everything that can be foreseen."""
    from cluster.errors import ServiceError
    from trainables.errors import TrainableError

    signal.signal(signal.SIGTERM, _interrupt)
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
        err.print(f"[red]error[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except (TrainableError, ServiceError) as error:
        err.print(f"[red]error[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(EXIT_INPUT)
