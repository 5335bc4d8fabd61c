"""What the commands share: a planned sweep, the store it lives in, the servers of this machine.

The only room, beside the command line itself, that knows `cluster`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cluster.local import servers as local
from cluster.local.servers import Services
from cluster.local.services import Name
from cluster.profile import Profile
from orchestrator.cost import prices
from orchestrator.errors import ConfigError, InputError, MissingFile
from orchestrator.expand import studies as expand
from orchestrator.plan.graph import Plan
from orchestrator.sweep import resolve as inputs
from orchestrator.sweep import sweep_file, yaml_file
from orchestrator.sweep.config import Placement, Store, Sweep
from orchestrator.sweep.fingerprints import by_name, remembering
from orchestrator.sweep.resolve import Inputs

if TYPE_CHECKING:
    from orchestrator.store.s3 import StoreAddress
    from orchestrator.store.tickets import TicketStore

LOCAL = "local"
NO_TRACKING = "none"


@dataclass(frozen=True, slots=True)
class Planned:
    path: Path
    home: Path
    sweep: Sweep
    inputs: Inputs
    plan: Plan
    profile: Profile | None
    """Of the cluster that the placement names, if it does."""

    def pools(self) -> dict[str, dict[str, int]]:
        """Weights in each prunable pool, by model label."""
        return {label: dict(model.pools) for label, model in self.inputs.models.items()}


@dataclass(frozen=True, slots=True)
class Connected:
    store: TicketStore
    address: StoreAddress
    tracking: str
    """Address of the MLflow server, or empty."""


def planned(path: Path, home: Path, *, offline: bool = False) -> Planned:
    """Read and expand a sweep file; touches nothing but the file and the data it names.

    `offline` does not even look at the data: the counts are right, the keys are not.
    """
    sweep = sweep_file.load(path)
    try:
        known = by_name if offline else remembering(home / "fingerprints.json")
        found = inputs.read(sweep, known)
        _check_workers(sweep.placement)
        plan = expand.expand(sweep, found)
        return Planned(path, home, sweep, found, plan, _profile(sweep.placement))
    except (ConfigError, MissingFile) as error:
        raise type(error)(f"{path}: {error}") from None


def _check_workers(placement: Placement) -> None:
    if placement.workers % placement.nodes:
        raise ConfigError(
            f"placement.workers = {placement.workers} is not allowed with {placement.nodes} nodes;"
            f" use a multiple of {placement.nodes}, as many on each"
        )
    if placement.workers > 1 and placement.gpus not in (0, 1):
        raise ConfigError(
            f"placement.gpus = {placement.gpus:g} is not allowed with {placement.workers} workers;"
            " use 1, the GPU of each worker, or 0"
        )


def _profile(placement: Placement) -> Profile | None:
    """Raises MissingFile, or ConfigError also where no node of the cluster holds a trial."""
    if placement.cluster is None:
        return None
    profile = yaml_file.load(placement.cluster, Profile, kind="profile")
    prices.offers(profile, placement)
    return profile


@contextmanager
def connected(placement: Placement, home: Path, *, tracking: bool) -> Iterator[Connected]:
    """The store (and MLflow's address) of a placement; local servers are started where they are
    not running, and what was started here is stopped at the end.

    Raises StoreError if the store cannot be used.
    """
    from orchestrator.store.s3 import S3Objects
    from orchestrator.store.tickets import TicketStore

    with _stored(placement, home) as address:
        objects = S3Objects(address)
        objects.probe()  # before MLflow starts: it takes seconds, and may be in vain
        with _tracked(placement, home, wanted=tracking) as uri:
            yield Connected(TicketStore(objects), address, uri)


@contextmanager
def _stored(placement: Placement, home: Path) -> Iterator[StoreAddress]:
    """The address of the store; that of this machine runs meanwhile."""
    from orchestrator.store.s3 import StoreAddress

    if isinstance(placement.store, Store):
        yield StoreAddress(**placement.store.model_dump())
        return
    with serving(home, ["s3"]) as services:
        os.environ.update(services.environment())
        yield StoreAddress(
            url=services.bucket_url, endpoint=services.s3_endpoint, region=services.region
        )


@contextmanager
def _tracked(placement: Placement, home: Path, *, wanted: bool) -> Iterator[str]:
    """The address of MLflow, or empty; that of this machine runs meanwhile."""
    if not wanted or placement.tracking == NO_TRACKING:
        yield ""
    elif placement.tracking == LOCAL:
        with serving(home, ["mlflow"]) as services:
            yield services.mlflow_uri
    else:
        yield placement.tracking


@contextmanager
def serving(home: Path, names: Sequence[Name]) -> Iterator[Services]:
    """Servers of this machine for as long as any command uses them: the last one stops them."""
    with _users(home) as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield local.start(home, names=names)
        finally:
            with suppress(BlockingIOError):  # somebody else is using them
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                local.stop(home)


def _users(home: Path) -> IO[str]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return (home / "in-use.lock").open("w")
    except OSError as error:
        raise InputError(
            f"--home {home}: cannot write here ({error.strerror}); choose another folder"
        ) from None


def has_store(placement: Placement, home: Path) -> bool:
    """Whether there is anything to look into: a local store exists once a sweep has run."""
    return isinstance(placement.store, Store) or (home / "s3").exists()
