"""`sweepstakes cluster`: the files that a cluster is created from, rendered from a profile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from cluster.errors import ProfileError
from cluster.profile import Profile
from cluster.providers.base import Provider, SubmittedSweep
from orchestrator.api.providers import PROVIDERS
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
    "name",
    type=click.Choice([*PROVIDERS]),
    help="Provider to render for. Default: the one that PROFILE configures.",
)
def render(path: Path, folder: Path, sweep: Path | None, name: str | None) -> None:
    """Write the manifests of the cluster that PROFILE describes."""
    profile = yaml_file.load_yaml(path, Profile, kind="profile")
    name = name or _only_provider(profile, path)
    provider = PROVIDERS[name]
    if not provider.configured(profile):
        raise ConfigError(
            f"{path}: {provider.section} is missing, but --provider {name} needs it; add it"
        )
    address = _address(profile, path)
    job = _job(sweep, profile, path, provider) if sweep else None
    try:
        files = provider.render(profile, job)
    except ProfileError as error:
        raise ConfigError(f"{path}: {error}") from None
    if provider.ships_store_policy:
        files[POLICY_FILE] = _json(bucket_policy(address))
    _write(folder, files)
    for file in files:
        out.print(f"{folder / file}", soft_wrap=True)
    for label, step in provider.next_steps(profile, folder, sweep, job).items():
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
    profile = yaml_file.load_yaml(path, Profile, kind="profile")
    address = _address(profile, path)
    document = bucket_policy(address, principal=principal, maintenance=maintenance)
    click.echo(_json(document), nl=False)


def _only_provider(profile: Profile, path: Path) -> str:
    """Return the provider that the profile configures; ConfigError unless it is exactly one."""
    configured = [name for name, provider in PROVIDERS.items() if provider.configured(profile)]
    if len(configured) != 1:
        found = "several" if configured else "none"
        sections = ", ".join(f"`{provider.section}`" for provider in PROVIDERS.values())
        advice = "choose one with --provider" if configured else "add one of them"
        raise ConfigError(f"{path}: has {found} of {sections}; {advice}")
    return configured[0]


def _job(sweep: Path, profile: Profile, path: Path, provider: Provider) -> SubmittedSweep:
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
    sweep: Sweep, paths: Mapping[str, str], profile: Profile, path: Path, provider: Provider
) -> Iterator[str]:
    """Yield what the sweep refers to but would not find on the cluster."""
    placement = sweep.placement
    store = profile.store.model_dump()
    if not isinstance(placement.store, StoreConfig) or placement.store.model_dump() != store:
        inner = ", ".join(f"{key}: {value}" for key, value in store.items() if value)
        yield f"placement.store differs from that of {path}; use {{{inner}}}"
    address = provider.tracking_uri(profile)
    if address and placement.tracking == "local":
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
