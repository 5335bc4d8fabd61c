"""`sweepstakes submit`: run a sweep as a job on a Ray cluster."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click
from rich.markup import escape

from cluster.submit import (
    DEFAULT_ADDRESS,
    connect_job_server,
    follow_job,
    runtime_env,
    submit_job,
)
from orchestrator.api.job_environment import check_sent_files, path_variables, sweep_paths
from orchestrator.cli.shared import EXIT_INTERRUPTED, SWEEP, err, out
from orchestrator.errors import ConfigError, InputError
from orchestrator.sweep.config import Placement, Sweep

DRIVER_RESOURCE_AMOUNT = 0.01
"""How much the driver takes of a custom resource, which marks nodes and does not limit them."""


@click.command()
@SWEEP
@click.option(
    "--address",
    metavar="URL",
    default=DEFAULT_ADDRESS,
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
    help="Folder to upload with the job. It must contain the sweep file.",
)
@click.option(
    "--driver-resource",
    metavar="RESOURCE",
    help="Custom Ray resource of the node that runs the driver. Default: the head node, which is"
    " never preempted.",
)
@click.option("--detach", is_flag=True, help="Exit once the job is submitted.")
@click.pass_obj
def submit(
    home: Path,
    sweep: Path,
    address: str,
    folder: Path,
    driver_resource: str | None,
    detach: bool,
) -> None:
    """Run a sweep as a job on a Ray cluster.

    Environment variables in the sweep's paths are sent with the job; set them to their values on
    the cluster. The exit code is that of `sweepstakes run`. Ctrl-C leaves the job running. To
    resume a stopped job, submit the sweep again.
    """
    placement = Sweep.from_file(sweep).placement
    command = shlex.join(["sweepstakes", "run", str(_path_in(folder, sweep))])
    excluded, variables = _excluded(home, folder), _variables(sweep, folder)
    environment = runtime_env(folder.absolute(), excluded, variables)
    with err.status("uploading the working directory"):
        server = connect_job_server(address)
        resources = {driver_resource: DRIVER_RESOURCE_AMOUNT} if driver_resource else {}
        job = submit_job(server, command, environment, resources)
    out.print(f"job       {job}: {escape(command)}", soft_wrap=True)
    out.print(f"dashboard {server.dashboard_url(job)}", soft_wrap=True)
    out.print(f"MLflow    {_tracking(placement)}", soft_wrap=True)
    if detach:
        _print_commands(job, server.address)
        return
    try:
        outcome = follow_job(server, job, _print_output)
    except KeyboardInterrupt:
        out.print("\ndetached; the job is still running")
        _print_commands(job, server.address)
        sys.exit(EXIT_INTERRUPTED)
    if outcome.status == "STOPPED":
        err.print("the job was stopped; committed trials are kept, submit the sweep to resume")
    elif outcome.code and outcome.message:
        first_line = outcome.message.splitlines()[0]
        err.print(f"[red]job failed[/]: {escape(first_line)}", soft_wrap=True)
    sys.exit(outcome.code)


def _path_in(folder: Path, sweep: Path) -> Path:
    """The sweep's path in the job's copy of the folder."""
    try:
        return sweep.resolve().relative_to(folder.resolve())
    except ValueError:
        raise InputError(
            f"{sweep}: not in the folder that is uploaded with the job, {folder.resolve()}; move it"
            " there, or choose another folder with --working-dir"
        ) from None


def _variables(sweep: Path, folder: Path) -> dict[str, str]:
    """The environment variables in the sweep's paths; ConfigError if the job could not use them."""
    paths = sweep_paths(sweep)
    try:
        check_sent_files(paths, folder)
        return path_variables(paths)
    except ConfigError as error:
        raise ConfigError(f"{sweep}: {error}") from None


def _excluded(home: Path, folder: Path) -> list[str]:
    """The pattern that excludes this machine's local store and its credentials."""
    if not home.resolve().is_relative_to(folder.resolve()):
        return []
    return [f"/{home.resolve().relative_to(folder.resolve())}"]


def _tracking(placement: Placement) -> str:
    if placement.tracking == "none":
        return "none"
    if placement.tracking == "local":
        return "only on the driver's machine; to view it here, set placement.tracking to a server"
    return escape(placement.tracking)


def _print_commands(job: str, address: str) -> None:
    out.print(f"follow    ray job logs {job} --address {address} --follow", soft_wrap=True)
    out.print(f"stop      ray job stop {job} --address {address}", soft_wrap=True)


def _print_output(text: str) -> None:
    click.echo(text, nl=False)
