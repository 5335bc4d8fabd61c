"""Ray clusters of separate processes on this machine, each with its own ports, token and folder.

`ray stop` would stop all Ray processes of the machine. To stop one of these clusters, its processes
are found by a token in their environment.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
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
from orchestrator.ray_cluster.join import START_ATTEMPTS
from tests.support.harness import FOREIGN_PREFIXES
from tests.support.waits import wait_for

HEAD_ID = "f" * 51 + "00000"
"""The head's node id in Ray's fake node provider (fake_multi_node/node_provider.py)."""
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
PORTS = ("gcs", "dashboard", "agent", "agent_grpc", "client")


@dataclass(frozen=True, slots=True)
class FakeCluster:
    folder: Path
    address: str
    """Address of the GCS, for `ray.init` and `RAY_ADDRESS`."""
    dashboard: str
    """URL of the dashboard, for the jobs API."""
    token: Path
    process_token: str
    """Token in the environment of all of the cluster's processes."""

    def count_nodes(self) -> int:
        """Return the number of running nodes, including the head."""
        count = 0
        for process in processes.find_processes(self.process_token):
            with suppress(psutil.NoSuchProcess):
                count += process.name() == "raylet"
        return count

    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate a request to the dashboard."""
        return {"Authorization": f"Bearer {self.token.read_text()}"}

    def environment(self) -> dict[str, str]:
        """Return the environment variables that authenticate a driver or `ray job`."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}


def autoscaler_config(
    gcs: str, worker: Mapping[str, int], max_nodes: int, idle_s: float
) -> dict[str, Any]:
    """Return an autoscaler configuration for up to `max_nodes` nodes like `worker`, all of them on
    this machine."""
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    node = {
        "resources": dict(worker),
        "node_config": {},
        "min_workers": 0,
        "max_workers": max_nodes,
    }
    phases = ("initialization", "setup", "head_setup", "worker_setup")
    commands = [f"{name}_commands" for name in (*phases, "head_start_ray", "worker_start_ray")]
    return {
        "cluster_name": "fake",
        "max_workers": max_nodes,
        "upscaling_speed": 100,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",  # for another type, Ray needs defaults that its wheel lacks
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
        # Ray requires these keys, and does not set defaults for an external provider.
        **{key: [] for key in (*commands, "cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{key: {} for key in ("docker", "auth", "file_mounts")},
        "file_mounts_sync_continuously": False,
    }


@contextmanager
def ray_cluster(
    *,
    cpus: int,
    worker: Mapping[str, int] | None = None,
    max_nodes: int = 0,
    idle_s: float = 5.0,
    v2: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Iterator[FakeCluster]:
    """Start a head with `cpus`. With `worker`, an autoscaler adds up to `max_nodes` nodes like it
    and removes them when they were idle for `idle_s`: the autoscaler of `ray up`, or with `v2` that
    of KubeRay.

    All processes, and so the workers, inherit `environment`.
    """
    # Not in the test's folder, because paths of Ray's sockets must be shorter than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="sweep-ray-"))
    ports = processes.free_ports(PORTS, {})
    cluster = FakeCluster(
        folder,
        f"127.0.0.1:{ports['gcs']}",
        f"http://127.0.0.1:{ports['dashboard']}",
        folder / "token",
        secrets.token_hex(8),
    )
    cluster.token.write_text(secrets.token_hex(32))
    base = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
    path = f"{Path(sys.executable).parent}:{base['PATH']}"
    variables = {**base, **cluster.environment(), "PATH": path, "OMP_NUM_THREADS": "1"}
    options = []
    if worker is not None:
        file = folder / "autoscaling.yaml"
        file.write_text(
            yaml.safe_dump(autoscaler_config(cluster.address, worker, max_nodes, idle_s))
        )
        options.append(f"--autoscaling-config={file}")
        variables |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        variables |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "RAY_CLOUD_INSTANCE_ID": HEAD_ID}
        variables |= {"RAY_enable_autoscaler_v2": str(int(v2))}
    try:
        for _ in range(START_ATTEMPTS):
            processes.launch(
                [*head_command(folder, ports, cpus), *options],
                token=cluster.process_token,
                folder=folder,
                log=folder / "head.log",
                environment={**variables, **(environment or {})},
            )
            if _accepts_jobs(cluster):
                break
            processes.terminate(cluster.process_token)
        else:
            raise AssertionError((folder / "head.log").read_text())
        yield cluster
    finally:
        processes.terminate(cluster.process_token)
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


def _accepts_jobs(cluster: FakeCluster) -> bool:
    """Wait until the head accepts jobs. Return False if it exits before."""
    request = urllib.request.Request(f"{cluster.dashboard}/api/jobs/", headers=cluster.headers())

    def outcome() -> str:
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            return "started" if answer.status == HTTPStatus.OK else ""
        return "" if processes.find_processes(cluster.process_token) else "exited"

    return wait_for(outcome, (cluster.folder / "head.log").read_text, poll_s=0.2) == "started"
