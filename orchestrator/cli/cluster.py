"""`sweepstakes cluster`: the files that a cluster is created from, rendered from a profile."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.api import clusters
from orchestrator.api.providers import PROVIDERS
from orchestrator.cli.shared import out

PROFILE = click.argument("path", metavar="PROFILE", type=click.Path(path_type=Path))


@click.group()
def cluster() -> None:
    """Render cluster manifests and store policies from a profile."""


@cluster.command()
@PROFILE
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Output folder. It must not contain other files.",
)
@click.option(
    "--sweep",
    type=click.Path(path_type=Path),
    help="Check that this sweep fits the cluster. With `kuberay`, also render it as a job with its"
    " own cluster.",
)
@click.option(
    "--provider",
    type=click.Choice([*PROVIDERS]),
    help="Provider to render for. Default: the one that PROFILE configures.",
)
def render(path: Path, folder: Path, sweep: Path | None, provider: str | None) -> None:
    """Write the manifests of the cluster that PROFILE describes."""
    rendered = clusters.render_cluster(path, folder, sweep=sweep, provider=provider)
    for file in rendered.files:
        out.print(str(file), soft_wrap=True)
    for label, step in rendered.next_steps.items():
        out.print(f"{label:<10}{step}", soft_wrap=True)


@cluster.command()
@PROFILE
@click.option(
    "--principal",
    metavar="ARN",
    default="",
    help="Principal of a bucket policy. Default: print a policy for a role.",
)
@click.option(
    "--maintenance",
    is_flag=True,
    help="Also allow `tickets gc` and `tickets verify --repair`.",
)
def policy(path: Path, principal: str, maintenance: bool) -> None:
    """Print the minimal AWS policy for a sweep's bucket.

    It is a policy for the role of the workers, or with --principal one for the bucket itself.
    """
    click.echo(clusters.store_policy(path, principal=principal, maintenance=maintenance), nl=False)
