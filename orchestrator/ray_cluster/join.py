"""Being in a Ray cluster: the one that `RAY_ADDRESS` names, or one of this machine's own.

Whoever reaches a Ray cluster with its token can run code on it. One of our own therefore listens on
127.0.0.1 alone, wants a token that only this user can read, and keeps its sockets and logs in a
folder of this user's; by itself Ray listens on every network, and leaves token and folder open.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import ray
from ray._private import ray_constants
from ray.exceptions import AuthenticationError, RayError
from ray.tune.execution import class_cache

from orchestrator.credentials import AWS_VARIABLES
from orchestrator.errors import InputError

LOCAL = "local"
PATIENCE_S = 10.0
"""For the first sign of a cluster. Ray itself would wait for two minutes where nobody is."""
TOKEN_BYTES = 32
"""As many as Ray's own tokens have."""


@contextmanager
def joined() -> Iterator[None]:
    """Be in the cluster that this process belongs to or `RAY_ADDRESS` names; without one, in one
    of this machine's own for as long as needed.

    Raises:
        InputError: the cluster is not there or refuses the token, or this user's folders cannot be
            made private.
    """
    # Tune would put these into the runtime environment of its actors, and Ray that into a log.
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(AWS_VARIABLES)
    if ray.is_initialized():
        yield
        return
    if is_own():
        _start()
    else:
        _join(os.environ["RAY_ADDRESS"])
    try:
        yield
    finally:
        ray.shutdown()


def is_own() -> bool:
    """Whether the cluster is this machine's own, which never has more than this machine."""
    return os.environ.get("RAY_ADDRESS", LOCAL) == LOCAL


def _start() -> None:
    _keep_token_private()
    loopback, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            address=LOCAL,
            _temp_dir=str(_own_folder() / "ray"),
            log_to_driver=False,
            logging_level=logging.CRITICAL,  # a worker's death is ours to tell
            include_dashboard=False,  # costs a process, and MLflow shows what people look for
        )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = loopback


def _join(address: str) -> None:
    _await_answer(address)
    with _hushed() as said:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            said.seek(0)
            if isinstance(error, AuthenticationError) or b"InvalidAuthToken" in said.read():
                raise InputError(
                    f"RAY_ADDRESS = {address}: the cluster refuses the token; set RAY_AUTH_MODE to "
                    "token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's"
                ) from None
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"RAY_ADDRESS = {address}: cannot join this Ray cluster ({reason}); correct the "
                "address, or leave it out to use this machine alone"
            ) from None


def _await_answer(address: str) -> None:
    """Raises InputError where nobody listens; of names that only Ray can look up, nothing is
    known."""
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[\da-f:]+\]", host) or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS = {address}: nobody answers there ({error}); correct the address, or "
            "leave it out to use this machine alone"
        ) from None


@contextmanager
def _hushed() -> Iterator[IO[bytes]]:
    """What arrives at the standard error meanwhile: Ray's C++ side warns there each second."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _keep_token_private() -> None:
    """Have the token where Ray looks for it, for this user's eyes. One that Ray or `ray
    get-auth-token` made, others may read wherever they may enter the home folder."""
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+") as file:
            fcntl.flock(handle, fcntl.LOCK_EX)  # two first runs must not make two tokens
            os.fchmod(handle, 0o600)
            if not file.read().strip():
                file.write(os.urandom(TOKEN_BYTES).hex())
    except OSError as error:
        raise InputError(
            f"{path}: cannot keep Ray's token there ({error.strerror}); set RAY_AUTH_TOKEN_PATH to "
            "a file with one"
        ) from None


def _own_folder() -> Path:
    """A folder of this user's alone, with a short name: Ray's sockets are in it, whose paths may
    have 107 bytes, and it opens to everybody what it makes itself."""
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    folder = base / f"sweepstakes-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise FileExistsError(0, "somebody else's")
        folder.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be this user's own folder for Ray ({error.strerror}); set "
            "RAY_TMPDIR to a folder where it can"
        ) from None
    return folder
