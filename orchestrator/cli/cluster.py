"""`sweepstakes cluster`: what a cluster is made from, rendered from one profile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import click

from cluster.errors import ProfileError
from cluster.profile import Profile
from cluster.providers import aws
from cluster.providers.kuberay import manifests as kuberay
from cluster.providers.kuberay import mlflow_server, rayjob
from orchestrator.cli import job_environment as travel
from orchestrator.cli.shared import out
from orchestrator.cost import prices
from orchestrator.errors import ConfigError, InputError
from orchestrator.store import policy as store_policy
from orchestrator.store.s3 import StoreAddress
from orchestrator.sweep import sweep_file, yaml_file
from orchestrator.sweep.config import Store, Sweep

FORMS = ("kuberay", "aws")
POLICY = "store-policy.json"

PROFILE = click.argument("path", metavar="PROFILE", type=click.Path(path_type=Path))


@click.group()
def cluster() -> None:
    """Render what a cluster is made from: manifests, policies."""


@cluster.command()
@PROFILE
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write to; nothing else may lie in it.",
)
@click.option(
    "--sweep",
    type=click.Path(path_type=Path),
    help="Check that this sweep fits the cluster; on Kubernetes, make it a job with a cluster"
    " of its own.",
)
@click.option("--form", type=click.Choice(FORMS), help="By default the one that PROFILE has.")
def render(path: Path, folder: Path, sweep: Path | None, form: str | None) -> None:
    """Write the manifests of the cluster that PROFILE describes."""
    profile = yaml_file.load(path, Profile, kind="profile")
    form = form or _only_form(profile, path)
    address = _address(profile, path)
    job = _job(sweep, profile, path, form) if sweep else None
    try:
        files = _rendered(profile, path, form, job)
    except ProfileError as error:
        raise ConfigError(f"{path}: {error}") from None
    if form == "aws":  # `kubectl apply` takes every .json of its folder for a manifest
        files[POLICY] = _json(store_policy.of(address))
    _write(folder, files)
    for name in files:
        out.print(f"{folder / name}", soft_wrap=True)
    again = rayjob.delete(profile.kubernetes, job) if profile.kubernetes and job else ""
    _print_next(folder, form, sweep, again)


@cluster.command()
@PROFILE
@click.option("--principal", metavar="ARN", default="", help="For a policy of the bucket itself.")
@click.option("--upkeep", is_flag=True, help="Allow what `tickets gc` and `verify --repair` do.")
def policy(path: Path, principal: str, upkeep: bool) -> None:
    """Print the least that a sweep needs of its bucket.

    As an AWS policy: for a role of the workers; with --principal, for the bucket itself.
    """
    profile = yaml_file.load(path, Profile, kind="profile")
    address = _address(profile, path)
    click.echo(_json(store_policy.of(address, principal=principal, upkeep=upkeep)), nl=False)


def _only_form(profile: Profile, path: Path) -> str:
    """The form that the profile describes; ConfigError unless it is one."""
    given = [name for name, has in _sections(profile).items() if has]
    if len(given) != 1:
        has = "none" if not given else "both"
        raise ConfigError(
            f"{path}: of `kubernetes` and `aws` it has {has}; "
            + ("choose with --form" if given else "add the one that it is for, or give --form")
        )
    return given[0]


def _sections(profile: Profile) -> dict[str, bool]:
    return {"kuberay": profile.kubernetes is not None, "aws": profile.aws is not None}


def _rendered(profile: Profile, path: Path, form: str, job: rayjob.Sweep | None) -> dict[str, str]:
    if form == "kuberay" and profile.kubernetes:
        return kuberay.render(profile, profile.kubernetes, job)
    if form == "aws" and profile.aws:
        return aws.render(profile, profile.aws)
    section = "kubernetes" if form == "kuberay" else "aws"
    raise ConfigError(f"{path}: {section} is missing, which --form {form} needs; add it")


def _job(sweep: Path, profile: Profile, path: Path, form: str) -> rayjob.Sweep:
    """The sweep with what travels beside it.

    Raises:
        ConfigError: it cannot run on this cluster.
    """
    read, written = sweep_file.load(sweep), travel.locations(sweep)
    try:
        variables = travel.variables(written)
        for complaint in _misfits(read, written, profile, path, form):
            raise ConfigError(complaint)
        travel.check_profile(written, Path())
        prices.offers(profile, read.placement)
    except ConfigError as error:
        raise ConfigError(f"{sweep}: {error}") from None
    name = f"{read.name}.sweep.yaml"  # a profile may have the sweep's name
    files = {name: sweep.read_text(encoding="utf-8")}
    if read.placement.cluster:
        files[os.path.relpath(read.placement.cluster)] = path.read_text(encoding="utf-8")
    return rayjob.Sweep(name=read.name, files=files, path=name, variables=variables)


def _misfits(
    sweep: Sweep, written: Mapping[str, str], profile: Profile, path: Path, form: str
) -> Iterator[str]:
    """What of the sweep would not be found on the cluster."""
    placement = sweep.placement
    wanted = profile.store.model_dump()
    if not isinstance(placement.store, Store) or placement.store.model_dump() != wanted:
        inner = ", ".join(f"{key}: {value}" for key, value in wanted.items() if value)
        yield f"placement.store is not that of {path}; use {{{inner}}}"
    if form == "kuberay" and profile.kubernetes and profile.kubernetes.mlflow:
        address = mlflow_server.address(profile)
        if placement.tracking == "local":
            yield f"placement.tracking = 'local' is not seen by the workers; use {address}"
    if placement.cluster and placement.cluster != path.absolute():
        use = os.path.relpath(path)
        yield f"placement.cluster = {str(placement.cluster)!r} is another profile; use {use}"
    folders = [Path(mount.path) for mount in profile.mounts]
    for key, found in written.items():
        # As the nodes have it: their home, and where they run, are others than here.
        there = Path(os.path.normpath(os.path.expandvars(found)))
        inside = any(there.is_relative_to(folder) for folder in folders)
        if not inside and not key.startswith("placement."):
            known = ", ".join(map(str, folders)) or "none"
            yield f"{key} = {str(there)!r} is in none of the profile's mounts ({known}); add one"


def _address(profile: Profile, path: Path) -> StoreAddress:
    try:
        return StoreAddress(**profile.store.model_dump())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _json(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """All files or none, each whole. A file from another rendering would be applied with them."""
    partials = {folder / f".{name}.partial": name for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = sorted(one.name for one in folder.iterdir() if one.name not in files)
        foreign = [name for name in foreign if not (name[0] == "." and name.endswith(".partial"))]
        if foreign:
            raise InputError(f"--to {folder}: holds {foreign[0]} too; give an empty folder")
        for partial, name in partials.items():
            partial.write_text(files[name], encoding="utf-8")
        for partial, name in partials.items():
            partial.replace(folder / name)
    except OSError as error:
        raise InputError(
            f"--to {folder}: cannot write here ({error.strerror}); choose another folder"
        ) from None
    finally:  # also when interrupted
        for partial in partials:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _print_next(folder: Path, form: str, sweep: Path | None, again: str) -> None:
    if form == "kuberay":
        first = folder / "0-namespace.yaml"
        steps = {
            "next": f"kubectl apply -f {first}, and make the secrets that it names",
            "then": f"kubectl apply -f {folder}",
            "again": f"{again}, and apply" if again else "",
        }
    else:
        steps = {
            "next": f"ray up {folder / 'cluster.yaml'}",
            "then": f"sweepstakes submit {sweep or 'SWEEP'}",
        }
    for when, what in steps.items():
        if what:
            out.print(f"{when:<10}{what}", soft_wrap=True)
