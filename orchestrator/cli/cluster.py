"""`sweepstakes cluster`: the files that a cluster is created from, rendered from a profile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from cluster.errors import ProfileError
from cluster.profile import Profile
from cluster.providers import aws
from cluster.providers.kuberay import manifests
from cluster.providers.kuberay.mlflow_server import tracking_uri
from cluster.providers.kuberay.rayjob import SubmittedSweep, delete_command
from orchestrator.cli.job_environment import (
    check_sent_files,
    is_sent,
    path_variables,
    sweep_paths,
)
from orchestrator.cli.shared import out
from orchestrator.cost.prices import offers
from orchestrator.errors import ConfigError, InputError
from orchestrator.files import replace_files_in
from orchestrator.store.policy import bucket_policy
from orchestrator.store.s3 import StoreAddress
from orchestrator.sweep import sweep_file, yaml_file
from orchestrator.sweep.config import StoreConfig, Sweep

PROVIDERS = ("kuberay", "aws")
POLICY_FILE = "store-policy.json"

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
    type=click.Choice(PROVIDERS),
    help="Provider to render for. Default: the one that PROFILE configures.",
)
def render(path: Path, folder: Path, sweep: Path | None, provider: str | None) -> None:
    """Write the manifests of the cluster that PROFILE describes."""
    profile = yaml_file.load_yaml(path, Profile, kind="profile")
    provider = provider or _only_provider(profile, path)
    address = _address(profile, path)
    job = _job(sweep, profile, path, provider) if sweep else None
    try:
        files = _render(profile, path, provider, job)
    except ProfileError as error:
        raise ConfigError(f"{path}: {error}") from None
    if provider == "aws":  # `kubectl apply` would read every .json in its folder as a manifest
        files[POLICY_FILE] = _json(bucket_policy(address))
    _write(folder, files)
    for name in files:
        out.print(f"{folder / name}", soft_wrap=True)
    delete = delete_command(profile.kubernetes, job) if profile.kubernetes and job else ""
    _print_next_steps(folder, provider, sweep, delete)


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
    profile = yaml_file.load_yaml(path, Profile, kind="profile")
    address = _address(profile, path)
    document = bucket_policy(address, principal=principal, maintenance=maintenance)
    click.echo(_json(document), nl=False)


def _only_provider(profile: Profile, path: Path) -> str:
    """Return the provider that the profile configures; ConfigError unless it is exactly one."""
    configured = [name for name, present in _sections(profile).items() if present]
    if len(configured) != 1:
        present = "neither" if not configured else "both"
        advice = "choose one with --provider" if configured else "add one of them"
        raise ConfigError(f"{path}: has {present} of `kubernetes` and `aws`; {advice}")
    return configured[0]


def _sections(profile: Profile) -> dict[str, bool]:
    return {"kuberay": profile.kubernetes is not None, "aws": profile.aws is not None}


def _render(
    profile: Profile, path: Path, provider: str, job: SubmittedSweep | None
) -> dict[str, str]:
    if provider == "kuberay" and profile.kubernetes:
        return manifests.render(profile, profile.kubernetes, job)
    if provider == "aws" and profile.aws:
        return aws.render(profile, profile.aws)
    section = "kubernetes" if provider == "kuberay" else "aws"
    raise ConfigError(f"{path}: {section} is missing, but --provider {provider} needs it; add it")


def _job(sweep: Path, profile: Profile, path: Path, provider: str) -> SubmittedSweep:
    """Return the sweep with the files and variables that its job needs.

    Raises:
        ConfigError: it cannot run on this cluster.
    """
    config, paths = sweep_file.load_sweep(sweep), sweep_paths(sweep)
    try:
        variables = path_variables(paths)
        for problem in _problems(config, paths, profile, path, provider):
            raise ConfigError(problem)
        check_sent_files(paths, Path())
        offers(profile, config.placement)
    except ConfigError as error:
        raise ConfigError(f"{sweep}: {error}") from None
    name = f"{config.name}.sweep.yaml"  # a profile may have the sweep's name
    files = {name: sweep.read_text(encoding="utf-8")}
    if config.placement.cluster:
        files[os.path.relpath(config.placement.cluster)] = path.read_text(encoding="utf-8")
    for key, written in paths.items():
        if is_sent(key) and key != "placement.cluster":
            name_there = os.path.normpath(os.path.expandvars(written))
            files[name_there] = Path(name_there).read_text(encoding="utf-8")
    return SubmittedSweep(name=config.name, files=files, path=name, variables=variables)


def _problems(
    sweep: Sweep, paths: Mapping[str, str], profile: Profile, path: Path, provider: str
) -> Iterator[str]:
    """Yield what the sweep refers to but would not find on the cluster."""
    placement = sweep.placement
    store = profile.store.model_dump()
    if not isinstance(placement.store, StoreConfig) or placement.store.model_dump() != store:
        inner = ", ".join(f"{key}: {value}" for key, value in store.items() if value)
        yield f"placement.store differs from that of {path}; use {{{inner}}}"
    if provider == "kuberay" and profile.kubernetes and profile.kubernetes.mlflow:
        address = tracking_uri(profile)
        if placement.tracking == "local":
            yield f"placement.tracking = 'local' cannot be reached by the workers; use {address}"
    if placement.cluster and placement.cluster != path.absolute():
        use = os.path.relpath(path)
        yield f"placement.cluster = {str(placement.cluster)!r} is another profile; use {use}"
    mounts = [Path(mount.path) for mount in profile.mounts]
    for key, written in paths.items():
        # Only variables are expanded: home and working directory differ on the nodes.
        on_node = Path(os.path.normpath(os.path.expandvars(written)))
        mounted = any(on_node.is_relative_to(mount) for mount in mounts)
        if not mounted and not is_sent(key) and not key.startswith("placement."):
            known = ", ".join(map(str, mounts)) or "none"
            yield f"{key} = {str(on_node)!r} is in none of the profile's mounts ({known}); add one"


def _address(profile: Profile, path: Path) -> StoreAddress:
    try:
        return StoreAddress(**profile.store.model_dump())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files or none, each atomically.

    Files of another rendering are refused, since they would be applied as well.
    """
    with replace_files_in(folder) as scratch:
        entries = (entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        others = sorted(name for name in entries if name not in files)
        if others:
            raise InputError(f"--to {folder}: also contains {others[0]}; use an empty folder")
        for name, text in files.items():
            (scratch / name).write_text(text, encoding="utf-8")


def _print_next_steps(folder: Path, provider: str, sweep: Path | None, delete: str) -> None:
    if provider == "kuberay":
        namespace = folder / "0-namespace.yaml"
        steps = {
            "next": f"kubectl apply -f {namespace}, and create the secrets that it names",
            "then": f"kubectl apply -f {folder}",
            "re-run": f"{delete}, then apply again" if delete else "",
        }
    else:
        steps = {
            "next": f"ray up {folder / 'cluster.yaml'}",
            "then": f"sweepstakes submit {sweep or 'SWEEP'}",
        }
    for label, step in steps.items():
        if step:
            out.print(f"{label:<10}{step}", soft_wrap=True)
