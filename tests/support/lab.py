"""A test bed for faults: an S3 server behind a proxy that injects faults, and the results of a
sweep without faults."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from cluster.local import processes
from cluster.local import servers as local
from cluster.local.services import ServiceName
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore
from tests.support.s3_proxy import S3Proxy, run_proxy

TrialResults = dict[str, dict[str, Any]]


def sweep_content(*, steps: int = 6, poison: bool = False) -> dict[str, Any]:
    """Return a sweep of 22 trials, 13 of them training runs of `steps` steps, in two chains with
    their controls. `poison` adds a chain whose runs always fail."""
    study: dict[str, Any] = {
        "model": "uniter-tiny",
        "task": "easy_vqa",
        "recipe": "short",
        "rewind": [0, steps // 2],
        "schedule": {"rate": 0.3, "levels": 2},
        "controls": ["random", "random_layerwise"],
    }
    short = {"steps": steps, "batch_size": 8, "eval_examples": 64}
    recipes, studies = {"short": short}, {"main": study}
    if poison:
        recipes["hot"] = short | {"lr": 1e30, "warmup": 0.0}
        studies["poisoned"] = study | {"recipe": "hot", "rewind": 0, "controls": []}
    return {"name": "disturbed", "recipes": recipes, "studies": studies}


@dataclass(slots=True)
class S3Testbed:
    """The S3 server and the proxy that all sweeps share."""

    root: Path
    proxy: S3Proxy
    endpoint: str
    """Address of the proxy."""
    credentials: dict[str, str]
    baseline: TrialResults = field(default_factory=dict)
    """Results of the sweep without faults, by trial key."""
    baseline_s: float = 0.0
    """Duration of the sweep without faults, in seconds."""

    def store(self, name: str) -> TrialStore:
        """Open the store of the sweep `name`, bypassing the proxy."""
        services = local.start_services(self.root, names=["s3"])
        address = StoreAddress(url=f"{services.bucket_url}/{name}", endpoint=services.s3_endpoint)
        return TrialStore(S3ObjectStore(address))

    def kill_s3(self) -> None:
        for process in server_processes(self.root, "s3"):
            process.kill()
            process.wait(10)

    def start_s3(self) -> None:
        local.start_services(self.root, names=["s3"])

    def fill_disk(self) -> None:
        """Prevent all files of the S3 server from growing, as on a full disk."""
        for process in server_processes(self.root, "s3"):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def free_disk(self) -> None:
        """Restart the server without the limit, as the next run does with a local store. After a
        failed write to its index, SeaweedFS refuses all other writes."""
        self.kill_s3()
        self.start_s3()


def server_processes(root: Path, name: ServiceName) -> list[psutil.Process]:
    """Return the processes of a local server."""
    identity = json.loads((root / "services.json").read_text())["identity"]
    return processes.find_processes(f"{identity}-{name}")


@contextmanager
def running_testbed(root: Path) -> Iterator[S3Testbed]:
    """Start a test bed below `root`."""
    services = local.start_services(root, names=["s3"])
    environment = dict(os.environ)
    os.environ.update(services.environment())
    try:
        with run_proxy(services.s3_endpoint) as (proxy, endpoint):
            yield S3Testbed(root, proxy, endpoint, services.environment())
    finally:
        os.environ.clear()
        os.environ.update(environment)
        local.stop_services(root)


LONG_SWEEP = sweep_content(steps=40)
"""Its runs take about a second each, long enough to be interrupted."""
