"""`sweepstakes status`, `logs` and `explain`: look into a sweep, whoever runs it and wherever."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from orchestrator.api import workspace
from orchestrator.cli import shared as cli_shared
from orchestrator.cli.shared import KEY, SWEEP, out
from orchestrator.errors import InputError
from orchestrator.sweep import sweep_file
from orchestrator.sweep.config import Placement

if TYPE_CHECKING:
    from orchestrator.store.tickets import TicketStore

HEX = re.compile(r"[0-9a-f]{1,64}")


@click.command()
@SWEEP
@click.option("--watch", is_flag=True, help="Look again every few seconds until all is done.")
@click.pass_obj
def status(home: Path, sweep: Path, watch: bool) -> None:
    """Show how far a sweep is, what runs and what failed.

    From the store alone, so anywhere, whoever runs it.
    """
    from orchestrator.monitor import status as statuses

    planned = cli_shared.planned(sweep, home)
    plan = planned.plan
    with cli_shared.opened(planned, home, tracking=False) as found:
        if watch:
            statuses.watch(plan, found.store, str(sweep), out)
        else:
            out.print(statuses.show(plan, statuses.look(plan, found.store), str(sweep)))


@click.command()
@KEY
@click.option(
    "--sweep",
    type=click.Path(path_type=Path),
    help="Sweep file whose store to look into; by default this machine's own.",
)
@click.pass_obj
def logs(home: Path, key: str, sweep: Path | None) -> None:
    """Print what the attempts at a trial had to say. KEY may be a unique beginning."""
    if not HEX.fullmatch(key):
        raise InputError(f"{key!r} begins no key: keys are 64 of 0-9 and a-f, in small letters")
    placement = sweep_file.load(sweep).placement if sweep else Placement()
    if not workspace.has_store(placement, home):
        raise InputError(f"--home {home}: no sweep has run here; name another, or --sweep SWEEP")
    with workspace.connected(placement, home, tracking=False) as found:
        click.echo(_log(found.store, key), nl=False)


def _log(store: TicketStore, beginning: str) -> str:
    """The log of the trial; of a trial that a run makes on its way, the run's."""
    keys = store.logged(beginning)
    if len(keys) > 1:
        some = ", ".join(key[: len(beginning) + 6] for key in keys[:3])
        raise InputError(
            f"{beginning!r} begins the keys of {len(keys)} logs ({some}, …); give more digits"
        )
    if not keys:
        makers = {store.record(key).spec.get("run") for key in store.keys(beginning)}
        keys = [key for key in makers if isinstance(key, str) and key in store.logged(key)]
    if len(keys) != 1:
        raise InputError(
            f"{beginning!r} begins the key of no log; `sweepstakes status SWEEP` names trials that"
            " failed, and a trial has a log once a worker was at it"
        )
    return store.log(keys[0])


@click.command()
@SWEEP
@KEY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def explain(home: Path, sweep: Path, key: str, as_json: bool) -> None:
    """Show a trial's place in the plan, and why it runs or not.

    Also what rests on it, and where its ticket, scores, log and MLflow run are. KEY may be a unique
    beginning.
    """
    from orchestrator.monitor import explain as explanations
    from orchestrator.monitor.status import Status, look

    planned = cli_shared.planned(sweep, home)
    trial = explanations.find(planned.plan, key)
    known = Status()
    if workspace.has_store(planned.sweep.placement, home):
        with cli_shared.opened(planned, home, tracking=False) as found:
            known = look(planned.plan, found.store)
    mlflow = _mlflow(planned.sweep.placement)
    rows = explanations.explain(planned.plan, trial, known, str(sweep), mlflow=mlflow)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    for heading, lines in rows.items():
        table.add_row(heading, Text("\n".join(lines), overflow="fold"))
    out.print(table)


def _mlflow(placement: Placement) -> str:
    """Where to look for the sweep's runs; empty if they are nowhere."""
    if placement.tracking == workspace.NO_TRACKING:
        return ""
    return "sweepstakes ui" if placement.tracking == workspace.LOCAL else placement.tracking
