"""A laboratory: an S3 server that can be made to fail, and the results of an undisturbed sweep."""

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
from cluster.local.services import Name
from orchestrator.store.s3 import S3Objects, StoreAddress
from orchestrator.store.tickets import TicketStore
from tests.support.s3_proxy import Proxy, serving

Results = dict[str, dict[str, Any]]


def sweep(*, steps: int = 6, poison: bool = False) -> dict[str, Any]:
    """22 trials, 13 of them training runs of so many steps, in two chains with their controls;
    `poison` adds a chain whose runs cannot succeed."""
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
class Lab:
    """What all sweeps share."""

    root: Path
    proxy: Proxy
    endpoint: str
    """The proxy's."""
    credentials: dict[str, str]
    undisturbed: Results = field(default_factory=dict)
    """What the sweep gives when it is left alone, by trial key."""
    seconds: float = 0.0
    """How long it takes then."""

    def store(self, name: str) -> TicketStore:
        """The store of the sweep `name`, past the proxy."""
        direct = local.start(self.root, names=["s3"])
        address = StoreAddress(url=f"{direct.bucket_url}/{name}", endpoint=direct.s3_endpoint)
        return TicketStore(S3Objects(address))

    def kill_s3(self) -> None:
        for process in server(self.root, "s3"):
            process.kill()
            process.wait(10)

    def start_s3(self) -> None:
        local.start(self.root, names=["s3"])

    def fill_disk(self) -> None:
        """From now on no file of the S3 server can grow, as on a full disk."""
        for process in server(self.root, "s3"):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def free_disk(self) -> None:
        """Start the server anew, without that limit, as the next run does with a local store: once
        a write to its index has failed, SeaweedFS refuses all others."""
        self.kill_s3()
        self.start_s3()


def server(root: Path, name: Name) -> list[psutil.Process]:
    """The processes of a local server."""
    identity = json.loads((root / "services.json").read_text())["identity"]
    return processes.alive(f"{identity}-{name}")


@contextmanager
def opened(root: Path) -> Iterator[Lab]:
    """A laboratory below `root`, in which nothing has run yet."""
    services = local.start(root, names=["s3"])
    before = dict(os.environ)
    os.environ.update(services.environment())
    try:
        with serving(services.s3_endpoint) as (proxy, endpoint):
            yield Lab(root, proxy, endpoint, services.environment())
    finally:
        os.environ.clear()
        os.environ.update(before)
        local.stop(root)


LONG = sweep(steps=40)
"""Runs of a second or so each: long enough to be hit in the middle."""
