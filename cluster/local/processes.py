"""Server processes that outlive the command that started them, and are known again by a token.

A token in its environment marks a service's process, and by inheritance each of its children.
Unlike a process number it is never given to anybody else's process, so nothing foreign is ended.
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

TOKEN = "SWEEPSTAKES_SERVICE"
GRACE_S = 5.0
"""SeaweedFS takes 2 s to stop in good health, and never stops while a damaged read hangs; killing
it loses nothing that it acknowledged."""
LOWEST, HIGHEST = 11000, 22000
"""Ports to choose from: with the 10,000 that SeaweedFS adds for gRPC they stay below the range from
which the system takes ports for outgoing connections."""
GRPC = 10000


def launch(
    command: Sequence[str], *, token: str, folder: Path, log: Path, environment: Mapping[str, str]
) -> None:
    """Start `command` in its own session, and as nobody's child: neither Ctrl-C, nor our end, nor
    `ray job stop`, which signals all descendants of the job's process, takes it along.

    Raises OSError when there is no such program.
    """
    if not os.access(command[0], os.X_OK):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    with log.open("ab") as output:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", *command],
            cwd=folder,
            env={**environment, TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=True,
        )


def alive(token: str) -> list[psutil.Process]:
    """The running processes that carry `token`."""
    return [process for process in psutil.process_iter() if _carries(process, token)]


def end(token: str) -> bool:
    """End the processes that carry `token`, by force if they linger; whether there were any."""
    processes = alive(token)
    for process in processes:
        _quietly(process.terminate)
    _, lingering = psutil.wait_procs(processes, timeout=GRACE_S)
    lingering = list({*lingering, *alive(token)})
    for process in lingering:
        _quietly(process.kill)
    psutil.wait_procs(lingering, timeout=GRACE_S)
    return bool(processes)


def free_ports(names: Sequence[str], wanted: Mapping[str, int]) -> dict[str, int]:
    """A port per name, free now together with the one `GRPC` above it; the wanted one if it is."""
    chosen: dict[str, int] = {}
    for name in names:
        port = wanted.get(name, 0)
        while not port or port in chosen.values() or not (_free(port) and _free(port + GRPC)):
            port = random.SystemRandom().randrange(LOWEST, HIGHEST)
        chosen[name] = port
    return chosen


def write_private(path: Path, data: bytes) -> None:
    """Replace a file whole, readable by this user only."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(partial, path)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def last_line(log: Path) -> str:
    """The last line of a log that says something, for an error message."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # without this a port whose last connections are still winding down counts as taken
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _carries(process: psutil.Process, token: str) -> bool:
    try:
        return (
            process.pid != os.getpid()
            and process.status() != psutil.STATUS_ZOMBIE
            and process.environ().get(TOKEN) == token
        )
    except (psutil.Error, OSError):  # ended meanwhile, or another user's
        return False


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except psutil.NoSuchProcess:
        return
