"""Server processes that outlive the command that started them and are identified by a token.

The token is an environment variable of a service's process, which its children inherit. Unlike a
process id it is never reused, so processes of other programs are never terminated.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

TOKEN_VARIABLE = "SWEEPSTAKES_SERVICE"
TERMINATE_TIMEOUT_S = 5.0
"""Time between SIGTERM and SIGKILL. A healthy SeaweedFS stops within 2 s; it does not stop at all
while a read of damaged data hangs. Killing it loses no acknowledged write."""
MIN_PORT, MAX_PORT = 20000, 22700
"""Range to choose ports from. It starts above the ports of Ray's workers (10002 to 19999), and ends
so low that the gRPC ports, too, are below the range that the system uses for outgoing connections
(32768 and above)."""
GRPC_PORT_OFFSET = 10000
"""SeaweedFS serves gRPC on the port this much above each of its HTTP ports."""


def launch(
    command: Sequence[str], *, token: str, folder: Path, log: Path, environment: Mapping[str, str]
) -> None:
    """Start `command` in its own session and without a parent in this process tree. It then
    survives Ctrl-C, the end of this process, and `ray job stop`, which signals all descendants of
    the job's process.

    Raises OSError if the program does not exist.
    """
    if not os.access(command[0], os.X_OK):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    with log.open("ab") as output:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            cwd=folder,
            env={**environment, TOKEN_VARIABLE: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=True,
        )


def find_processes(token: str) -> list[psutil.Process]:
    """Return the running processes that have `token`."""
    return [process for process in psutil.process_iter() if _has_token(process, token)]


def terminate(token: str) -> bool:
    """Terminate the processes that have `token`, and kill those that do not exit in time. Return
    whether there were any."""
    processes = find_processes(token)
    for process in processes:
        _signal(process.terminate)
    _, remaining = psutil.wait_procs(processes, timeout=TERMINATE_TIMEOUT_S)
    remaining = list({*remaining, *find_processes(token)})
    for process in remaining:
        _signal(process.kill)
    psutil.wait_procs(remaining, timeout=TERMINATE_TIMEOUT_S)
    return bool(processes)


def free_ports(names: Sequence[str], preferred: Mapping[str, int]) -> dict[str, int]:
    """Choose a port per name such that it and the one `GRPC_PORT_OFFSET` above it are free now. The
    `preferred` port of a name is used if both are free."""
    chosen: dict[str, int] = {}
    for name in names:
        port = preferred.get(name, 0)
        while (
            not port
            or port in chosen.values()
            or not (_is_free(port) and _is_free(port + GRPC_PORT_OFFSET))
        ):
            port = random.SystemRandom().randrange(MIN_PORT, MAX_PORT)
        chosen[name] = port
    return chosen


def write_private(path: Path, data: bytes) -> None:
    """Replace a file atomically; only this user can read it."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(partial, path)


def is_listening(port: int) -> bool:
    """Return whether a process of this machine accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank, for an error message."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Without this, a port whose last connections are still closing counts as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _has_token(process: psutil.Process, token: str) -> bool:
    try:
        return (
            process.pid != os.getpid()
            and process.status() != psutil.STATUS_ZOMBIE
            and process.environ().get(TOKEN_VARIABLE) == token
        )
    except (psutil.Error, OSError):  # it exited meanwhile, or belongs to another user
        return False


def _signal(action: Callable[[], None]) -> None:
    """Call `action` of a process that may have exited."""
    try:
        action()
    except psutil.NoSuchProcess:
        return
