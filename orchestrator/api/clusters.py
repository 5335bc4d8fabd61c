"""The files that a cluster is created from, and the policy of its store, from a profile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ProfileError
from cluster.profile import Profile
from cluster.providers.base import Provider, SubmittedSweep
from orchestrator.api.job_environment import (
    check_sent_files,
    is_sent,
    path_variables,
    sweep_paths,
)
from orchestrator.api.providers import PROVIDERS
from orchestrator.cost.prices import offers
from orchestrator.errors import ConfigError, InputError, suggest
from orchestrator.files import replace_files_in
from orchestrator.store.policy import bucket_policy
from orchestrator.store.s3 import StoreAddress
from orchestrator.sweep import yaml_file
from orchestrator.sweep.config import StoreConfig, Sweep

POLICY_FILE = "store-policy.json"


@dataclass(frozen=True, slots=True)
class RenderedCluster:
    """The files that were written, and what to do with them."""

    files: tuple[Path, ...]
    next_steps: Mapping[str, str]
    """Label -> command, in order."""


def render_cluster(
    path: Path, folder: Path, *, sweep: Path | None = None, provider: str | None = None
) -> RenderedCluster:
    """Write the manifests of the cluster that the profile at `path` describes into `folder`.

    Args:
        path: a cluster profile (YAML).
        folder: is created, and must not contain other files.
        sweep: a sweep file that must fit the cluster, and that the files run as a job if the
            provider can.
        provider: name in `PROVIDERS`. Default: the one that the profile configures.

    Raises:
        MissingFile: a file does not exist.
        ConfigError: the profile is invalid or lacks the provider, or the sweep does not fit.
        InputError: `provider` is unknown, or `folder` has other files or cannot be written.
        PluginError: the provider's package is broken.
    """
    profile = yaml_file.load_yaml(path, Profile, kind="profile")
    name = provider or _only_provider(profile, path)
    if name not in PROVIDERS:
        raise InputError(f"--provider {name}: not known; {suggest(name, PROVIDERS)}")
    entry = PROVIDERS[name]
    if not entry.configured(profile):
        raise ConfigError(
            f"{path}: {entry.section} is missing, but --provider {name} needs it; add it"
        )
    address = _address(profile, path)
    job = _job(sweep, profile, path, entry) if sweep else None
    try:
        files = entry.render(profile, job)
    except ProfileError as error:
        raise ConfigError(f"{path}: {error}") from None
    if entry.ships_store_policy:
        files[POLICY_FILE] = as_json(bucket_policy(address))
    _write(folder, files)
    return RenderedCluster(
        tuple(folder / file for file in files), entry.next_steps(profile, folder, sweep, job)
    )


def store_policy(path: Path, *, principal: str = "", maintenance: bool = False) -> str:
    """Return the minimal AWS policy (JSON) for the bucket of the profile at `path`.

    It is a policy for the role of the workers, or with a `principal` (ARN) one for the bucket
    itself. With `maintenance` it also allows to delete what is damaged or not needed.
    """
    address = _address(yaml_file.load_yaml(path, Profile, kind="profile"), path)
    return as_json(bucket_policy(address, principal=principal, maintenance=maintenance))


def _only_provider(profile: Profile, path: Path) -> str:
    """Return the provider that the profile configures; ConfigError unless it is exactly one."""
    for name in profile.providers:
        if name not in PROVIDERS:
            raise ConfigError(f"{path}: providers.{name} is not known; {suggest(name, PROVIDERS)}")
        PROVIDERS[name]  # raises PluginError if its package is broken
    providers = PROVIDERS.loadable()
    configured = [name for name, provider in providers.items() if provider.configured(profile)]
    if len(configured) != 1:
        found = "several" if configured else "none"
        sections = ", ".join(f"`{provider.section}`" for provider in providers.values())
        advice = "choose one with --provider" if configured else "add one of them"
        raise ConfigError(f"{path}: has {found} of {sections}; {advice}")
    return configured[0]


def _job(sweep: Path, profile: Profile, path: Path, provider: Provider) -> SubmittedSweep:
    """Return the sweep with the files and variables that its job needs.

    Raises:
        ConfigError: it cannot run on this cluster.
    """
    config, paths = Sweep.from_file(sweep), sweep_paths(sweep)
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


def as_json(document: object) -> str:
    """Return a document as indented JSON."""
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
