"""A Ray cluster of several nodes on this machine, any of which may be killed."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.local import processes

RAY = str(Path(sys.executable).with_name("ray"))
ANY_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
"""Left to the system: Ray's own choices collide where several clusters share a machine."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """A head without CPUs, on which the drivers run, and nodes of one CPU each."""

    folder: Path
    port: int
    identity: str = field(default_factory=lambda: secrets.token_hex(8))
    numbers: Iterator[int] = field(default_factory=itertools.count)
    alive: list[str] = field(default_factory=list)
    """The tokens of the nodes' processes, the head's first."""

    @property
    def temporary(self) -> Path:
        """Unix sockets lie below it, whose paths hold 107 characters at most."""
        return Path("/tmp", f"ray-{self.identity}")

    @property
    def environment(self) -> dict[str, str]:
        """For drivers, and for the nodes themselves."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.identity,
        }

    def start_head(self) -> None:
        client = processes.free_ports(["client"], {"head": self.port})["client"]
        self._start(
            *("--head", f"--port={self.port}", f"--ray-client-server-port={client}"),
            *(f"--temp-dir={self.temporary}", "--num-cpus=0", "--include-dashboard=false"),
        )

    def add(self) -> None:
        self._start(f"--address=127.0.0.1:{self.port}", "--num-cpus=1")

    def lose(self) -> None:
        """Kill the oldest node that is not the head, its raylet first, as a power cut would."""
        doomed = processes.alive(self.alive.pop(1))
        for process in sorted(doomed, key=lambda process: process.name() != "raylet"):
            process.kill()
        psutil.wait_procs(doomed, timeout=30)

    def stop(self) -> None:
        for token in reversed(self.alive):
            processes.end(token)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _start(self, *options: str) -> None:
        token = f"{self.identity}-node-{next(self.numbers)}"
        self.alive.append(token)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= self.environment | {"RAY_USAGE_STATS_ENABLED": "0", processes.TOKEN: token}
        environment.pop("RAY_ADDRESS")
        with (self.folder / "nodes.log").open("ab") as log:
            subprocess.run(
                [RAY, "start", "--node-ip-address=127.0.0.1", *ANY_PORTS, *options],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                check=True,
                timeout=120,
            )


@contextmanager
def several(folder: Path, count: int) -> Iterator[Nodes]:
    """A head and `count` nodes."""
    nodes = Nodes(folder, processes.free_ports(["head"], {})["head"])
    try:
        nodes.start_head()
        for _ in range(count):
            nodes.add()
        yield nodes
    finally:
        nodes.stop()
