"""Join the Ray cluster that `RAY_ADDRESS` names, or start one on this machine.

A process that reaches a Ray cluster and has its token can run code on it. A cluster started here
therefore listens on 127.0.0.1 only, requires a token that only this user can read, and keeps its
sockets and logs in a private folder of this user. By default Ray listens on every network, and
leaves the token and the folder readable by others.
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
from orchestrator.errors import InputError, RunError
from trainables.errors import describe_error

log = logging.getLogger(__name__)

LOCAL_ADDRESS = "local"
CONNECT_TIMEOUT_S = 10.0
"""For the first answer of a cluster. Ray itself would wait two minutes for an address that does not
answer."""
START_ATTEMPTS = 4
"""Ray ends a node whose agents take more than 15 s to open their ports. On a machine that is busy
with other programs they do, and no setting of Ray changes the limit."""
TOKEN_BYTES = 32
"""The length of Ray's own tokens."""


@contextmanager
def joined_cluster() -> Iterator[None]:
    """Be connected to a Ray cluster within the `with` block.

    It is the cluster that this process belongs to, or the one that `RAY_ADDRESS` names. Without
    either, a cluster on this machine is started, and stopped at the end.

    Raises:
        InputError: the cluster does not answer or refuses the token, or this user's folders cannot
            be made private.
        RunError: no cluster can be started on this machine.
    """
    # Tune would put these into the runtime environment of its actors, and Ray writes that to a log.
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(AWS_VARIABLES)
    if ray.is_initialized():
        yield
        return
    if is_local():
        _start()
    else:
        _join(os.environ["RAY_ADDRESS"])
    try:
        yield
    finally:
        ray.shutdown()


def is_local() -> bool:
    """Whether the cluster is one started here, which never has more than this machine."""
    return os.environ.get("RAY_ADDRESS", LOCAL_ADDRESS) == LOCAL_ADDRESS


def _start() -> None:
    _keep_token_private()
    folder = _private_folder() / "ray"
    previous, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                ray.init(
                    address=LOCAL_ADDRESS,
                    _temp_dir=str(folder),
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,  # the searcher reports lost workers
                    # It costs a process, and MLflow shows what users look for.
                    include_dashboard=False,
                )
                return
            except Exception as error:  # Ray raises plain Exceptions
                ray.shutdown()
                if attempt == START_ATTEMPTS:
                    raise RunError(
                        f"Ray does not start on this machine ({describe_error(error)}); end other"
                        f" programs, or see the logs in {folder}/session_latest/logs"
                    ) from error
                # No warning: without a handler, logging prints it, and the library prints nothing.
                log.info("Ray did not start (%s); starting it again", describe_error(error))
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = previous


def _join(address: str) -> None:
    _check_reachable(address)
    with _captured_stderr() as stderr:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            stderr.seek(0)
            if isinstance(error, AuthenticationError) or b"InvalidAuthToken" in stderr.read():
                raise InputError(
                    f"RAY_ADDRESS = {address}: the cluster refuses the token; set RAY_AUTH_MODE to "
                    "token, and RAY_AUTH_TOKEN_PATH to a file with the cluster's token"
                ) from None
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"RAY_ADDRESS = {address}: cannot join this Ray cluster ({reason}); correct the "
                "address, or unset it to use only this machine"
            ) from None


def _check_reachable(address: str) -> None:
    """Check that a process listens at the address. Names that only Ray can resolve are skipped.

    Raises:
        InputError: no process listens there.
    """
    host, _, port = address.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[\da-f:]+\]", host) or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"RAY_ADDRESS = {address}: no answer ({error}); correct the address, or unset it to "
            "use only this machine"
        ) from None


@contextmanager
def _captured_stderr() -> Iterator[IO[bytes]]:
    """Redirect standard error into a file, since Ray's C++ code prints a warning every second."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(original, 2)
            os.close(original)


def _keep_token_private() -> None:
    """Create Ray's token at its default path, or make an existing one readable by this user only.

    A token created by Ray or by `ray get-auth-token` is readable by every user who may enter the
    home folder.
    """
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+") as file:
            fcntl.flock(handle, fcntl.LOCK_EX)  # two first runs must not write two tokens
            os.fchmod(handle, 0o600)
            if not file.read().strip():
                file.write(os.urandom(TOKEN_BYTES).hex())
    except OSError as error:
        raise InputError(
            f"{path}: cannot store Ray's token there ({error.strerror}); set RAY_AUTH_TOKEN_PATH "
            "to a file that contains one"
        ) from None


def _private_folder() -> Path:
    """Return a private folder of this user, created if needed.

    Its name is short because the paths of Ray's sockets in it may have 107 bytes. It must be
    private because Ray makes the folders that it creates accessible to every user.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    folder = base / f"sweepstakes-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise FileExistsError(0, "owned by another user")
        folder.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be used as this user's private folder for Ray ({error.strerror}); "
            "set RAY_TMPDIR to another folder"
        ) from None
    return folder
