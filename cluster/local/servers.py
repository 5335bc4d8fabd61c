"""An S3 server (SeaweedFS) and an MLflow server on this machine, for sweeps without a cluster.

Both listen on 127.0.0.1 only and keep everything under one folder: their data, `*.log`,
`credentials.json` (made at the first start, for this user's eyes) and `services.json` (the ports
in use). They live on when the command that started them dies, and the next start finds them.

What SeaweedFS acknowledged survives `kill -9` of it, but it does not flush each write to the disk:
a power cut may cost the last seconds. The other users of the machine can do nothing with SeaweedFS,
and MLflow, which knows no users, they can reach; web pages from elsewhere can use neither.
"""

from __future__ import annotations

import fcntl
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import ServiceError
from cluster.local import processes
from cluster.local.services import (
    BUCKET,
    CREDENTIALS,
    DATABASE,
    PORTS,
    REGION,
    SERVED,
    Name,
    command,
    environment,
    works,
)

NAMES: tuple[Name, ...] = ("mlflow", "s3")  # MLflow is started first: it takes longest
ROOT = Path(".sweepstakes")
VANISHED_S = 1.0
"""A process shows no environment, and so no token, while its program is being loaded."""
PATIENCE_S = 90.0
"""On two idle cores S3 is ready in about 1.5 s and MLflow in 5 s; on crowded ones in 20 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The running services; an address is empty where that service was not asked for."""

    s3_endpoint: str
    bucket_url: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    mlflow_uri: str
    logs: Mapping[Name, Path]
    started: tuple[Name, ...]
    """Those that this call started; the others were running."""

    def environment(self) -> dict[str, str]:
        """The variables in which boto3 looks for credentials."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}


def start(root: Path = ROOT, *, names: Sequence[Name] = NAMES) -> Services:
    """Have the named services running under `root`, and wait until each does its work.

    Raises:
        ServiceError: one does not come up, or `root` cannot be written.
    """
    root = root.resolve()
    with _locked(root):
        access_key, secret_key = credentials = _credentials(root)
        state = _State.read(root)
        started = tuple(name for name in NAMES if name in names and not state.running(name))
        for name in started:
            state.ports |= processes.free_ports(PORTS[name], state.ports)
            state.write(root)  # before the process: it must be found again if we die here
            _launch(name, root, state)
        for name in reversed(NAMES):
            if name in names:
                _await(name, root, state, credentials)
    return Services(
        s3_endpoint=f"http://127.0.0.1:{state.ports['s3']}" if "s3" in names else "",
        bucket_url=f"s3://{BUCKET}" if "s3" in names else "",
        region=REGION,
        access_key=access_key,
        secret_key=secret_key,
        mlflow_uri=f"http://127.0.0.1:{state.ports['mlflow']}" if "mlflow" in names else "",
        logs={name: _log(root, name) for name in names},
        started=started,
    )


def stop(root: Path = ROOT, *, names: Sequence[Name] = NAMES) -> tuple[Name, ...]:
    """End the named services of `root` and nothing else; those that were running."""
    root = root.resolve()
    if not (root / "services.json").exists():
        return ()
    with _locked(root):
        state = _State.read(root)
        return tuple(name for name in names if processes.end(state.token(name)))


@dataclass(kw_only=True, slots=True)
class _State:
    """What a root's next start must know: `services.json`."""

    identity: str
    """Random, so that two roots never take each other's processes for their own."""
    ports: dict[str, int]
    """Kept over restarts while they are free: addresses written down elsewhere stay right."""

    @classmethod
    def read(cls, root: Path) -> _State:
        try:
            stored: dict[str, Any] = json.loads((root / "services.json").read_text())
            return cls(identity=str(stored["identity"]), ports=dict(stored["ports"]))
        except FileNotFoundError:
            return cls(identity=secrets.token_hex(8), ports={})
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(
                f"{root / 'services.json'}: damaged; delete it, and end what `weed` or `mlflow` "
                "processes still use that folder"
            ) from error

    def write(self, root: Path) -> None:
        _write(root / "services.json", {"identity": self.identity, "ports": self.ports})

    def token(self, name: Name) -> str:
        return f"{self.identity}-{name}"

    def running(self, name: Name) -> bool:
        return bool(processes.alive(self.token(name)))


def _launch(name: Name, root: Path, state: _State) -> None:
    folder = root / name
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    if name == "mlflow" and not (folder / SERVED).exists():
        # a start that was killed while it made the tables left half of them
        (folder / DATABASE).unlink(missing_ok=True)
    try:
        processes.launch(
            command(name, root, state.ports),
            token=state.token(name),
            folder=folder,
            log=_log(root, name),
            environment=environment(name, root),
        )
    except OSError as error:
        raise ServiceError(
            f"cannot start the {name} service ({error.strerror}: {error.filename}); install "
            "the project's requirements again"
        ) from error


def _await(name: Name, root: Path, state: _State, credentials: tuple[str, str]) -> None:
    seen = time.monotonic()
    deadline = seen + PATIENCE_S
    while not (processes.listening(state.ports[name]) and works(name, state.ports, credentials)):
        now = time.monotonic()
        seen = now if state.running(name) else seen
        dead = now - seen > VANISHED_S
        if dead or now > deadline:
            processes.end(state.token(name))
            log = _log(root, name)
            raise ServiceError(
                f"the local {name} service {'ended' if dead else 'did not answer'} during its "
                f"start; see {log}: {processes.last_line(log)}"
            )
        time.sleep(0.05)
    if name == "mlflow":
        (root / name / SERVED).touch()


def _credentials(root: Path) -> tuple[str, str]:
    """The access and secret key of this root's S3 server, made at the first start."""
    path = root / CREDENTIALS
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
        identity = {"name": "sweepstakes", "credentials": [keys], "actions": ["Admin"]}
        _write(path, {"identities": [identity]})
    stored = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return str(stored["accessKey"]), str(stored["secretKey"])


def _log(root: Path, name: Name) -> Path:
    return root / f"{name}.log"


def _write(path: Path, value: object) -> None:
    processes.write_private(path, json.dumps(value, indent=2).encode())


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One start or stop at a time; a second one waits for the first."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (root / "lock").open("w")
    except OSError as error:
        raise ServiceError(
            f"{root}: cannot write here ({error.strerror}); choose another folder for the local "
            "services"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, or we die
        yield
