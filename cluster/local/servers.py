"""An S3 server (SeaweedFS) and an MLflow server on this machine, for sweeps without a cluster.

Both listen on 127.0.0.1 only and store everything in one folder: their data, `*.log`,
`credentials.json` (created at the first start, readable by this user only) and `services.json` (the
ports in use). They keep running when the command that started them exits, and the next start finds
them.

Writes that SeaweedFS acknowledged survive `kill -9`, but it does not flush each write to disk: a
power cut may lose the last seconds. Other users of the machine cannot use SeaweedFS. They can reach
MLflow, which has no user accounts. Web pages of other sites can use neither.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import ServiceError
from cluster.local import processes
from cluster.local.services import (
    CREDENTIALS_FILE,
    DATABASE,
    LOCAL_BUCKET,
    PORTS,
    READY_MARKER,
    REGION,
    ServiceName,
    is_healthy,
    service_command,
    service_environment,
)

SERVICES: tuple[ServiceName, ...] = ("mlflow", "s3")
"""The services in the order of starting: MLflow first, because it takes longest."""
DEFAULT_ROOT = Path(".sweepstakes")
MISSING_TIMEOUT_S = 1.0
"""Time without a process after which a service counts as exited. While a program is being loaded,
its process has no environment yet, and so no token."""
STARTUP_TIMEOUT_S = 90.0
"""On two idle cores, S3 is ready in about 1.5 s and MLflow in 5 s; on busy ones in 20 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The running services; the address of a service that was not requested is empty."""

    s3_endpoint: str
    bucket_url: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    mlflow_uri: str
    logs: Mapping[ServiceName, Path]
    started: tuple[ServiceName, ...]
    """The services that this call started; the others were running."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables from which boto3 takes credentials."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


def start_services(
    root: Path = DEFAULT_ROOT, *, names: Sequence[ServiceName] = SERVICES
) -> Services:
    """Start the named services under `root` unless they run, and wait until they are healthy.

    Raises:
        ServiceError: a service does not start, or `root` cannot be written.
    """
    root = root.resolve()
    with _locked(root):
        access_key, secret_key = credentials = _credentials(root)
        state = _State.read(root)
        started = tuple(name for name in SERVICES if name in names and not state.running(name))
        for name in started:
            _launch(name, root, state)
        for name in reversed(SERVICES):
            if name in names:
                _wait_until_healthy(name, root, state, credentials)
    return Services(
        s3_endpoint=f"http://127.0.0.1:{state.ports['s3']}" if "s3" in names else "",
        bucket_url=f"s3://{LOCAL_BUCKET}" if "s3" in names else "",
        region=REGION,
        access_key=access_key,
        secret_key=secret_key,
        mlflow_uri=f"http://127.0.0.1:{state.ports['mlflow']}" if "mlflow" in names else "",
        logs={name: _log(root, name) for name in names},
        started=started,
    )


def stop_services(
    root: Path = DEFAULT_ROOT, *, names: Sequence[ServiceName] = SERVICES
) -> tuple[ServiceName, ...]:
    """Stop the named services of `root` only. Return those that were running."""
    root = root.resolve()
    if not (root / "services.json").exists():
        return ()
    with _locked(root):
        state = _State.read(root)
        return tuple(name for name in names if processes.terminate(state.token(name)))


def find_mlflow_experiment(root: Path, name: str) -> tuple[str, str]:
    """Return the address of the MLflow server of `root`, and the id of the experiment `name`.

    Both are empty if there is no such experiment. The server need not run.
    """
    root = root.resolve()
    database = root / "mlflow" / DATABASE
    if not database.exists() or not (root / "services.json").exists():
        return "", ""
    query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            row = connection.execute(query, (name,)).fetchone()
    except sqlite3.Error:  # the server is creating or migrating it
        row = None
    port = _State.read(root).ports.get("mlflow")
    return (f"http://127.0.0.1:{port}", str(row[0])) if row and port else ("", "")


@dataclass(kw_only=True, slots=True)
class _State:
    """The contents of `services.json`, which the next start needs."""

    identity: str
    """A random string, so that two roots never confuse their processes."""
    ports: dict[str, int]
    """Ports are reused after a restart if they are free, so that known addresses stay valid."""

    @classmethod
    def read(cls, root: Path) -> _State:
        try:
            stored: dict[str, Any] = json.loads((root / "services.json").read_text())
            return cls(identity=str(stored["identity"]), ports=dict(stored["ports"]))
        except FileNotFoundError:
            return cls(identity=secrets.token_hex(8), ports={})
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(
                f"{root / 'services.json'}: damaged; delete it, and stop the `weed` and `mlflow` "
                "processes that use this folder"
            ) from error

    def write(self, root: Path) -> None:
        _write(root / "services.json", {"identity": self.identity, "ports": self.ports})

    def token(self, name: ServiceName) -> str:
        return f"{self.identity}-{name}"

    def running(self, name: ServiceName) -> bool:
        return bool(processes.find_processes(self.token(name)))


def _launch(name: ServiceName, root: Path, state: _State) -> None:
    """Start a service on ports that are free now."""
    state.ports |= processes.free_ports(PORTS[name], state.ports)
    state.write(root)  # before the start, so that it is found if this process is killed
    folder = root / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    if name == "mlflow" and not (folder / READY_MARKER).exists():
        # A start that was killed while it created the tables leaves some of them.
        (folder / DATABASE).unlink(missing_ok=True)
    try:
        processes.launch(
            service_command(name, root, state.ports),
            token=state.token(name),
            folder=folder,
            log=_log(root, name),
            environment=service_environment(name, root),
        )
    except OSError as error:
        raise ServiceError(
            f"cannot start the {name} service ({error.strerror}: {error.filename}); install "
            "the project's requirements again"
        ) from error


def _wait_until_healthy(
    name: ServiceName, root: Path, state: _State, credentials: tuple[str, str]
) -> None:
    """Wait for a service. If another program takes one of its ports while it starts, it is started
    again on others."""
    last_running = time.monotonic()
    deadline = last_running + STARTUP_TIMEOUT_S
    while not (
        processes.is_listening(state.ports[name]) and is_healthy(name, state.ports, credentials)
    ):
        now = time.monotonic()
        last_running = now if state.running(name) else last_running
        exited = now - last_running > MISSING_TIMEOUT_S
        if exited and now < deadline and _lost_port(name, state):
            _launch(name, root, state)
            last_running = now
        elif exited or now > deadline:
            processes.terminate(state.token(name))
            log = _log(root, name)
            raise ServiceError(
                f"the local {name} service {'exited' if exited else 'did not answer'} while it was"
                f" starting; see {log}: {processes.last_line(log)}"
            )
        time.sleep(0.05)
    if name == "mlflow":
        (root / name / READY_MARKER).touch()


def _lost_port(name: ServiceName, state: _State) -> bool:
    """Return whether a port of a service that does not run is taken."""
    free = processes.free_ports(PORTS[name], state.ports)
    return any(state.ports[port] != number for port, number in free.items())


def _credentials(root: Path) -> tuple[str, str]:
    """Return the access and secret key of this root's S3 server, created at the first start."""
    path = root / CREDENTIALS_FILE
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
        identity = {"name": "sweepstakes", "credentials": [keys], "actions": ["Admin"]}
        _write(path, {"identities": [identity]})
    stored = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return str(stored["accessKey"]), str(stored["secretKey"])


def _log(root: Path, name: ServiceName) -> Path:
    return root / f"{name}.log"


def _write(path: Path, value: object) -> None:
    processes.write_private(path, json.dumps(value, indent=2).encode())


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Allow one start or stop at a time; a second one waits for the first."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (root / "lock").open("w")
    except OSError as error:
        raise ServiceError(
            f"{root}: cannot write here ({error.strerror}); choose another folder for the local "
            "services"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed or the process exits
        yield
