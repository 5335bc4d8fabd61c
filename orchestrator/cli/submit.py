"""`sweepstakes submit`: a sweep as a job on a Ray cluster."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click
from rich.markup import escape

from cluster import submit as job_server
from orchestrator.cli import job_environment as travel
from orchestrator.cli.shared import EXIT_INTERRUPTED, SWEEP, err, out
from orchestrator.errors import ConfigError, InputError
from orchestrator.sweep import sweep_file
from orchestrator.sweep.config import Placement

DRIVER_SHARE = 0.01
"""Of the custom resource that holds the driver: it marks nodes, and says nothing of room."""
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the process that a job runs."""


def default_home() -> Path:
    """`.sweepstakes` here; in a Ray job, where here is a copy that goes with the job, the user's.

    So what a local store holds outlives the job, and the next job finds it.
    """
    return Path.home() / ".sweepstakes" if IN_JOB in os.environ else Path(".sweepstakes")


@click.command()
@SWEEP
@click.option(
    "--address",
    default=job_server.ADDRESS,
    envvar="RAY_API_SERVER_ADDRESS",
    show_default=True,
    help="Address of the cluster's dashboard.",
)
@click.option(
    "--working-dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    show_default=True,
    help="Folder that travels with the job; the sweep lies in it.",
)
@click.option(
    "--driver-on",
    metavar="RESOURCE",
    help="Run the driver where this custom resource is; by default on the head, which is never"
    " preempted.",
)
@click.option("--detach", is_flag=True, help="Do not follow the job's output.")
@click.pass_obj
def submit(
    home: Path, sweep: Path, address: str, folder: Path, driver_on: str | None, detach: bool
) -> None:
    """Run a sweep as a job on a Ray cluster.

    The variables in the sweep's paths travel along: give them as they are on the cluster. The exit
    code is that of `sweepstakes run`. Ctrl-C leaves the job running. To go on after a stop, submit
    the sweep again.
    """
    placement = sweep_file.load(sweep).placement
    command = shlex.join(["sweepstakes", "run", str(_within(sweep, folder))])
    excluded, variables = _excluded(home, folder), _variables(sweep, folder)
    environment = job_server.runtime_env(folder.absolute(), excluded, variables)
    with err.status("uploading the working directory"):
        jobs = job_server.connect(address)
        resources = {driver_on: DRIVER_SHARE} if driver_on else {}
        job = job_server.submit(jobs, command, environment, resources)
    out.print(f"job       {job}: {escape(command)}", soft_wrap=True)
    out.print(f"dashboard {jobs.page(job)}", soft_wrap=True)
    out.print(f"MLflow    {_tracking(placement)}", soft_wrap=True)
    if detach:
        _print_handles(job, jobs.address)
        return
    try:
        ended = job_server.follow(jobs, job, _pass_on)
    except KeyboardInterrupt:
        out.print("\nno longer followed; the job goes on")
        _print_handles(job, jobs.address)
        sys.exit(EXIT_INTERRUPTED)
    if ended.status == "STOPPED":
        err.print("the job was stopped; nothing committed is lost, submit the sweep to go on")
    elif ended.code and ended.message:
        first = ended.message.splitlines()[0]
        err.print(f"[red]job failed[/]: {escape(first)}", soft_wrap=True)
    sys.exit(ended.code)


def _within(sweep: Path, folder: Path) -> Path:
    """The sweep's path in the job's copy of the folder."""
    try:
        return sweep.resolve().relative_to(folder.resolve())
    except ValueError:
        raise InputError(
            f"{sweep}: not in the folder that travels with the job, {folder.resolve()}; move it"
            " there, or name another folder with --working-dir"
        ) from None


def _variables(sweep: Path, folder: Path) -> dict[str, str]:
    """What the sweep's paths are made with; ConfigError unless they can be in the job too."""
    written = travel.locations(sweep)
    try:
        travel.check_profile(written, folder)
        return travel.variables(written)
    except ConfigError as error:
        raise ConfigError(f"{sweep}: {error}") from None


def _excluded(home: Path, folder: Path) -> list[str]:
    """The pattern that leaves this machine's own store and its credentials behind."""
    if not home.resolve().is_relative_to(folder.resolve()):
        return []
    return [f"/{home.resolve().relative_to(folder.resolve())}"]


def _tracking(placement: Placement) -> str:
    if placement.tracking == "none":
        return "none"
    if placement.tracking == "local":
        return "on the driver's machine only; name a server in placement.tracking to watch it"
    return escape(placement.tracking)


def _print_handles(job: str, address: str) -> None:
    out.print(f"look on   ray job logs {job} --address {address} --follow", soft_wrap=True)
    out.print(f"stop      ray job stop {job} --address {address}", soft_wrap=True)


def _pass_on(text: str) -> None:
    click.echo(text, nl=False)
