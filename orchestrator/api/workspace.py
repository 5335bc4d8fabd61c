"""A planned sweep, the store it uses, and the local servers of this machine.

Besides the command line, this is the only module of the package that imports `cluster`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from cluster.local import servers
from cluster.local.servers import Services
from cluster.local.services import ServiceName
from cluster.profile import Profile
from orchestrator.cost import prices
from orchestrator.environment import set_variables
from orchestrator.errors import ConfigError, InputError, MissingFile, outside_code, suggest
from orchestrator.expand.studies import expand_sweep
from orchestrator.plan.graph import Plan
from orchestrator.schedule.strategy import STRATEGIES, Strategy, scores_of, skipped_trials
from orchestrator.sweep import yaml_file
from orchestrator.sweep.config import Placement, StoreConfig, Sweep
from orchestrator.sweep.fingerprints import (
    HeaderReader,
    caching_fingerprint,
    caching_headers,
    path_fingerprint,
)
from orchestrator.sweep.resolve import FingerprintFunction, Resolver, refused
from trainables.errors import TrainableError
from trainables.user_modules import uninstall

if TYPE_CHECKING:
    from orchestrator.store.record import Record
    from orchestrator.store.s3 import StoreAddress
    from orchestrator.store.tickets import TrialStore

AnySweep: TypeAlias = Sweep | Mapping[str, Any] | str | Path
"""A sweep, the content of a sweep file, or the path of one."""

HOME_VARIABLE = "SWEEPSTAKES_HOME"
JOB_ENV_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the process of a job."""
LOCAL = "local"
NO_TRACKING = "none"


@dataclass(frozen=True, slots=True)
class PlannedSweep:
    """A sweep with everything that follows from it before it runs."""

    path: Path | None
    """The sweep's file; None if it was made from a dict or from objects."""
    home: Path
    config: Sweep
    inputs: Resolver
    plan: Plan
    profile: Profile | None
    """The profile of `placement.cluster`; None if the sweep does not name one."""

    @property
    def label(self) -> str:
        """What messages call the sweep: its path, or else its name."""
        return str(self.path or self.config.name)

    @property
    def argument(self) -> str:
        """The sweep in commands that messages advise: its path, or else a placeholder."""
        return str(self.path or "SWEEP")

    def pools(self) -> dict[str, dict[str, int]]:
        """Number of weights in each prunable pool, by model label."""
        return {label: dict(model.pools) for label, model in self.inputs.models.items()}

    @property
    def strategy(self) -> Strategy:
        """Decides which trials of the plan are wanted."""
        name = self.config.strategy
        with outside_code(f"{self.label}: strategy = {name!r}"):
            return STRATEGIES[name].create(self.config)

    def skipped(self, records: Mapping[str, Record]) -> frozenset[str]:
        """Keys of the trials that are not wanted with the results in `records`."""
        return skipped_trials(self.plan, records, self.strategy, scores_of(records))


@dataclass(frozen=True, slots=True)
class Connections:
    """The open store of a sweep, and the address of its MLflow server."""

    store: TrialStore
    store_address: StoreAddress
    mlflow_uri: str
    """Empty without tracking."""


def plan_sweep(sweep: AnySweep, home: Path, *, offline: bool = False) -> PlannedSweep:
    """Expand a sweep. Nothing is read but its file, if it has one, and the data that it names.

    With `offline` the data are not read either: the counts are right, but the keys are not.

    Raises:
        ConfigError, MissingFile: one line that begins with the path or the name of the sweep.
    """
    path = Path(sweep) if isinstance(sweep, str | Path) else None
    config = read_sweep(sweep)
    try:
        if offline:
            inputs = _resolver(config, path_fingerprint)
        else:
            fingerprint = caching_fingerprint(home / "fingerprints.json")
            inputs = _resolver(config, fingerprint, caching_headers(home / "headers.json"))
        _check_strategy(config.strategy)  # a file of the user's may have it
        plan = expand_sweep(inputs)
        return PlannedSweep(path, home, config, inputs, plan, _profile(config.placement))
    except (ConfigError, MissingFile) as error:
        raise type(error)(f"{_label(sweep, config)}: {error}") from None
    except TrainableError as error:  # of a part from outside, where no key is known
        raise ConfigError(f"{_label(sweep, config)}: {error}") from None


def _resolver(
    config: Sweep, fingerprint: FingerprintFunction, headers: HeaderReader | None = None
) -> Resolver:
    """Return the resolver of a sweep, which imports the user's own files.

    Those of another sweep that this process has planned are removed: the workers of this one do not
    get them.
    """
    uninstall()
    return Resolver(config, fingerprint, headers)


def _label(sweep: AnySweep, config: Sweep) -> str:
    """Return how messages name a sweep: by its path, or by its name if it has none."""
    return str(sweep) if isinstance(sweep, str | Path) else config.name


def import_files(sweep: AnySweep) -> None:
    """Import the user's own files that a sweep names, so that their parts are known.

    Raises:
        ConfigError, MissingFile: the sweep or a file is invalid.
    """
    config = read_sweep(sweep)
    try:
        _resolver(config, path_fingerprint)
    except ConfigError as error:
        raise ConfigError(f"{_label(sweep, config)}: {error}") from None


def read_sweep(sweep: AnySweep) -> Sweep:
    """Return a sweep that is given in any form.

    Raises:
        ConfigError, MissingFile: it is invalid.
    """
    if isinstance(sweep, Sweep):
        return sweep
    if isinstance(sweep, str | Path):
        return Sweep.from_file(sweep)
    return Sweep.from_dict(sweep)


def _check_strategy(name: str) -> None:
    """Check that the strategy exists: built-in, of a package, or of the sweep's `modules`."""
    if name not in STRATEGIES:
        raise ConfigError(f"strategy = {name!r} is not known; {suggest(name, STRATEGIES)}")
    with refused(f"strategy = {name!r}"):
        STRATEGIES[name]


def _profile(placement: Placement) -> Profile | None:
    """Load the cluster profile that the placement names, if any.

    Raises:
        MissingFile: the profile does not exist.
        ConfigError: it is invalid, or a trial does not fit on any of its nodes.
    """
    if placement.cluster is None:
        return None
    profile = yaml_file.load_yaml(placement.cluster, Profile, kind="profile")
    prices.offers(profile, placement)
    return profile


def default_home() -> Path:
    """Return `.sweepstakes` in the working directory, or in the home folder within a Ray job.

    The working directory of a job is a copy that is deleted with the job. In the home folder, a
    local store outlives the job, and the next job finds it.
    """
    return Path.home() / ".sweepstakes" if JOB_ENV_VARIABLE in os.environ else Path(".sweepstakes")


def home_folder(home: str | Path | None) -> Path:
    """Return an absolute path: of `home`, else of `$SWEEPSTAKES_HOME`, else of the default home."""
    return Path(home or os.environ.get(HOME_VARIABLE) or default_home()).absolute()


def report_folder(sweep: PlannedSweep) -> Path:
    """Return the default folder for the report of a sweep."""
    return sweep.home / "reports" / sweep.plan.name


@contextmanager
def connect(placement: Placement, home: Path, *, tracking: bool) -> Iterator[Connections]:
    """Open the store of a placement, and with `tracking` its MLflow server.

    Local servers that do not run are started, and stopped at the end; in between, the environment
    of this process has their credentials. Raises StoreError if the store cannot be used.
    """
    from orchestrator.store.s3 import S3ObjectStore
    from orchestrator.store.tickets import TrialStore

    with store_server(placement, home) as (address, credentials), set_variables(credentials):
        objects = S3ObjectStore(address)
        objects.probe()  # before MLflow, whose start takes seconds and may be in vain
        with _mlflow_uri(placement, home, wanted=tracking) as uri:
            yield Connections(TrialStore(objects), address, uri)


@contextmanager
def store_server(
    placement: Placement, home: Path
) -> Iterator[tuple[StoreAddress, Mapping[str, str]]]:
    """The address of the store, and the environment variables of its credentials if it is local.
    The local server runs within the `with` block."""
    from orchestrator.store.s3 import StoreAddress

    if isinstance(placement.store, StoreConfig):
        yield StoreAddress(**placement.store.model_dump()), {}
        return
    with local_services(home, ["s3"]) as services:
        address = StoreAddress(
            url=services.bucket_url, endpoint=services.s3_endpoint, region=services.region
        )
        yield address, services.environment()


@contextmanager
def _mlflow_uri(placement: Placement, home: Path, *, wanted: bool) -> Iterator[str]:
    """The address of MLflow, or empty. The local server, if used, runs within the `with` block."""
    if not wanted or placement.tracking == NO_TRACKING:
        yield ""
    elif placement.tracking == LOCAL:
        with local_services(home, ["mlflow"]) as services:
            yield services.mlflow_uri
    else:
        yield placement.tracking


def chart_link(sweep: PlannedSweep) -> str:
    """Return the link to the sweep's curves in MLflow; empty without tracking, before the first
    run, and if the server does not answer.

    The local server need not run: its database says whether it has the experiment.
    """
    from orchestrator.tracking import server, views

    tracking = sweep.config.placement.tracking
    if tracking == NO_TRACKING:
        return ""
    if tracking == LOCAL:
        uri, experiment = servers.find_mlflow_experiment(sweep.home, sweep.plan.name)
    else:
        uri, experiment = tracking, ""
        with suppress(InputError):
            experiment = server.find_experiment(uri, sweep.plan.name)
    return views.chart_link(uri, experiment) if experiment else ""


@contextmanager
def local_services(home: Path, names: Sequence[ServiceName]) -> Iterator[Services]:
    """Keep local servers running while at least one command uses them; the last one stops them."""
    with _lock_file(home) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        try:
            yield servers.start_services(home, names=names)
        finally:
            with suppress(BlockingIOError):  # another command still uses them
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                servers.stop_services(home)


def _lock_file(home: Path) -> IO[str]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return (home / "in-use.lock").open("w")
    except OSError as error:
        raise InputError(
            f"{home}: cannot write here ({error.strerror}); choose another folder as the home"
        ) from None


def has_store(placement: Placement, home: Path) -> bool:
    """Whether the store may exist: a local one exists once a sweep has run."""
    return isinstance(placement.store, StoreConfig) or (home / "s3").exists()
