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

from cluster import local
from cluster.local import Services
from cluster.services import Name
from orchestrator import expand, inputs, sweep_file
from orchestrator.config import Placement, Store, Sweep
from orchestrator.errors import ConfigError, InputError, MissingFile
from orchestrator.fingerprints import by_name, remembering
from orchestrator.inputs import Inputs
from orchestrator.plan import Plan

if TYPE_CHECKING:
    from orchestrator.store.objects import StoreAddress
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
        return Planned(path, home, sweep, found, expand.expand(sweep, found))
    except (ConfigError, MissingFile) as error:
        raise type(error)(f"{path}: {error}") from None


@contextmanager
def connected(placement: Placement, home: Path, *, tracking: bool) -> Iterator[Connected]:
    """The store (and MLflow's address) of a placement; local servers are started where they are
    not running, and what was started here is stopped at the end.

    Raises StoreError if the store cannot be used.
    """
    from orchestrator.store.objects import S3Objects
    from orchestrator.store.tickets import TicketStore

    with _servers(placement, home, tracking=tracking) as (address, uri):
        objects = S3Objects(address)
        objects.probe()
        yield Connected(TicketStore(objects), address, uri)


@contextmanager
def _servers(
    placement: Placement, home: Path, *, tracking: bool
) -> Iterator[tuple[StoreAddress, str]]:
    """The addresses of store and MLflow; those of this machine run meanwhile."""
    uri = placement.tracking if tracking and placement.tracking != NO_TRACKING else ""
    names: list[Name] = [] if isinstance(placement.store, Store) else ["s3"]
    if uri == LOCAL:
        names.append("mlflow")
    with serving(home, names) as services:
        if "s3" in names:
            os.environ.update(services.environment())
        if uri == LOCAL:
            uri = services.mlflow_uri
        yield _address(placement, services), uri


def _address(placement: Placement, services: Services) -> StoreAddress:
    from orchestrator.store.objects import StoreAddress

    if isinstance(placement.store, Store):
        return StoreAddress(**placement.store.model_dump())
    return StoreAddress(
        url=services.bucket_url, endpoint=services.s3_endpoint, region=services.region
    )


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
