"""A Ray cluster of several nodes on this machine, which can be killed individually."""

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
from orchestrator.ray_cluster.join import START_ATTEMPTS

RAY = str(Path(sys.executable).with_name("ray"))
ANY_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
"""The system chooses ports, because Ray's choices collide if several clusters share a machine."""


@dataclass(frozen=True, slots=True)
class RayNodes:
    """A head without CPUs, on which drivers run, and nodes of one CPU each."""

    folder: Path
    port: int
    identity: str = field(default_factory=lambda: secrets.token_hex(8))
    numbers: Iterator[int] = field(default_factory=itertools.count)
    node_tokens: list[str] = field(default_factory=list)
    """Tokens of the running nodes' processes, the head's first."""

    @property
    def temp_dir(self) -> Path:
        """Folder of Ray's Unix sockets, whose paths may have at most 107 characters."""
        return Path("/tmp", f"ray-{self.identity}")

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for drivers and for the nodes."""
        return {
            "RAY_ADDRESS": f"127.0.0.1:{self.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.identity,
        }

    def start_head(self) -> None:
        client = processes.free_ports(["client"], {"head": self.port})["client"]
        self._start(
            *("--head", f"--port={self.port}", f"--ray-client-server-port={client}"),
            *(f"--temp-dir={self.temp_dir}", "--num-cpus=0", "--include-dashboard=false"),
        )

    def add_node(self) -> None:
        self._start(f"--address=127.0.0.1:{self.port}", "--num-cpus=1")

    def kill_oldest_node(self) -> None:
        """Kill the oldest node except the head, its raylet first, to simulate a power cut."""
        killed = processes.find_processes(self.node_tokens.pop(1))
        for process in sorted(killed, key=lambda process: process.name() != "raylet"):
            process.kill()
        psutil.wait_procs(killed)

    def stop(self) -> None:
        for token in reversed(self.node_tokens):
            processes.terminate(token)
        shutil.rmtree(self.temp_dir, ignore_errors=True)

    def _start(self, *options: str) -> None:
        token = f"{self.identity}-node-{next(self.numbers)}"
        self.node_tokens.append(token)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        environment |= self.environment | {
            "RAY_USAGE_STATS_ENABLED": "0",
            processes.TOKEN_VARIABLE: token,
        }
        environment.pop("RAY_ADDRESS")
        log = self.folder / "nodes.log"
        for _ in range(START_ATTEMPTS):
            with log.open("ab") as output:
                done = subprocess.run(
                    [RAY, "start", "--node-ip-address=127.0.0.1", *ANY_PORTS, *options],
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    check=False,
                )
            if done.returncode == 0:
                return
            processes.terminate(token)
        raise AssertionError(log.read_text())


@contextmanager
def start_nodes(folder: Path, count: int) -> Iterator[RayNodes]:
    """Start a head and `count` nodes."""
    nodes = RayNodes(folder, processes.free_ports(["head"], {})["head"])
    try:
        nodes.start_head()
        for _ in range(count):
            nodes.add_node()
        yield nodes
    finally:
        nodes.stop()
