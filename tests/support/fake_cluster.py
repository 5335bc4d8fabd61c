"""Ray clusters of separate processes on this machine, each with ports, token and folder of its own.

`ray stop` would end everybody's Ray; these are ended by the token that all their processes carry.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster.local import processes
from tests.support.harness import FOREIGN

HEAD_ID = "f" * 51 + "00000"
"""The id that Ray's fake node provider gives the head (fake_multi_node/node_provider.py)."""
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
PATIENCE_S = 120.0
"""A head takes 7 s to start on two idle cores."""
PORTS = ("gcs", "dashboard", "agent", "agent_grpc", "client")


@dataclass(frozen=True, slots=True)
class Cluster:
    folder: Path
    address: str
    """Of the GCS, for `ray.init` and `RAY_ADDRESS`."""
    dashboard: str
    """`http://…`, for the jobs API."""
    token: Path
    mark: str
    """Carried by all its processes."""

    def nodes(self) -> int:
        """Nodes up at this moment, the head among them."""
        found = 0
        for process in processes.alive(self.mark):
            with suppress(psutil.NoSuchProcess):
                found += process.name() == "raylet"
        return found

    def headers(self) -> dict[str, str]:
        """What lets a request to the dashboard in."""
        return {"Authorization": f"Bearer {self.token.read_text()}"}

    def environment(self) -> dict[str, str]:
        """What a driver or `ray job` needs to be let in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}


def autoscaling(gcs: str, worker: Mapping[str, int], most: int, idle_s: float) -> dict[str, Any]:
    """An autoscaler's configuration for up to `most` nodes like `worker`, all on this machine."""
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    node = {"resources": dict(worker), "node_config": {}, "min_workers": 0, "max_workers": most}
    phases = ("initialization", "setup", "head_setup", "worker_setup")
    commands = [f"{name}_commands" for name in (*phases, "head_start_ray", "worker_start_ray")]
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 100,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",  # by its own name Ray looks for defaults that its wheel lacks
            "module": PROVIDER,
            "gcs_address": gcs,  # by default port 6379
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {"ray.head.default": head, "worker": node},
        "head_node_type": "ray.head.default",
        # Ray fills in none of these for a provider like this, and stops where one is missing.
        **{key: [] for key in (*commands, "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{key: {} for key in ("docker", "auth", "file_mounts")},
        "file_mounts_sync_continuously": False,
    }


@contextmanager
def cluster(
    *,
    cpus: int,
    worker: Mapping[str, int] | None = None,
    most: int = 0,
    idle_s: float = 5.0,
    v2: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """A head with `cpus`; with `worker`, an autoscaler that adds up to `most` nodes like it and
    takes them away when they were idle for `idle_s`: that of `ray up`, or with `v2` KubeRay's.

    `environment` is what all its processes, and so the workers, inherit.
    """
    # Not a test's own folder: the paths of Ray's sockets must stay below 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="sweep-ray-"))
    ports = processes.free_ports(PORTS, {})
    made = Cluster(
        folder,
        f"127.0.0.1:{ports['gcs']}",
        f"http://127.0.0.1:{ports['dashboard']}",
        folder / "token",
        secrets.token_hex(8),
    )
    made.token.write_text(secrets.token_hex(32))
    ours = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    path = f"{Path(sys.executable).parent}:{ours['PATH']}"
    every = {**ours, **made.environment(), "PATH": path, "OMP_NUM_THREADS": "1"}
    options = []
    if worker is not None:
        file = folder / "autoscaling.yaml"
        file.write_text(yaml.safe_dump(autoscaling(made.address, worker, most, idle_s)))
        options.append(f"--autoscaling-config={file}")
        every |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        every |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "RAY_CLOUD_INSTANCE_ID": HEAD_ID}
        every |= {"RAY_enable_autoscaler_v2": str(int(v2))}
    try:
        processes.launch(
            [*head_command(folder, ports, cpus), *options],
            token=made.mark,
            folder=folder,
            log=folder / "head.log",
            environment={**every, **(environment or {})},
        )
        _await(made)
        yield made
    finally:
        processes.end(made.mark)
        shutil.rmtree(folder, ignore_errors=True)


def head_command(folder: Path, ports: Mapping[str, int], cpus: int) -> list[str]:
    return [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats"),
        *(f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=100000000"),
        *(f"--port={ports['gcs']}", f"--dashboard-port={ports['dashboard']}"),
        f"--dashboard-agent-listen-port={ports['agent']}",
        f"--dashboard-agent-grpc-port={ports['agent_grpc']}",
        f"--ray-client-server-port={ports['client']}",
        *("--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}"),
    ]


def _await(made: Cluster) -> None:
    """Until the head takes jobs."""
    deadline = time.monotonic() + PATIENCE_S
    request = urllib.request.Request(f"{made.dashboard}/api/jobs/", headers=made.headers())
    while True:
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            if answer.status == HTTPStatus.OK:
                return
        log = (made.folder / "head.log").read_text()
        assert processes.alive(made.mark), f"the head ended: {log}"
        assert time.monotonic() < deadline, f"no head after {PATIENCE_S:g} s: {log}"
        time.sleep(0.2)
