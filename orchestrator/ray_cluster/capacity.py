"""What a trial takes of a Ray cluster, and how many fit: now, and when it has grown."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.tune import PlacementGroupFactory

from orchestrator.cost.prices import needs_of, workers_on
from orchestrator.errors import ConfigError
from orchestrator.ray_cluster.join import is_own
from orchestrator.sweep.config import Placement

log = logging.getLogger(__name__)

WAITING = 200
"""Trials that wait at once for a cluster to grow when nobody said how far it may: Ray Tune's own
number, below the some 600 placement groups that Ray is tested with (ray-project/ray#43451)."""
STINT_BYTES = 2 * 2**30
"""Memory of a stint whose workers are elsewhere: torch, and a trial's state on its way."""
_STATUS = "__autoscaling_status"
"""Where the autoscaler of `ray up` reports; v2 says only that it is there."""
_UNSCALED = "node_"
"""So begin the types it gives to the nodes of a cluster that does not scale."""


def places(nodes: Iterable[Mapping[str, Any]], placement: Placement) -> int:
    """Trials that fit on the nodes alive, as `ray.nodes()` gives them."""
    held = [_workers(node["Resources"], placement) for node in nodes if node["Alive"]]
    shares = [count // placement.share for count in held if count >= placement.share]
    return sum(shares) // placement.nodes if len(shares) >= placement.nodes else 0


def at_once(placement: Placement, most: int | None = None) -> int:
    """Trials to have running or waiting; `most` is what the cluster holds at its largest, if known.

    Ray Tune fixes this number when it starts, and a cluster grows for what waits: by the size of
    today, one that has yet to grow would get one trial at a time.
    """
    if placement.slots is not None:
        return placement.slots
    now = places(ray.nodes(), placement)  # type: ignore[no-untyped-call]
    if most is None:
        # A head alone has no place; its autoscaler may not have reported yet.
        most = WAITING if not now or grows() else now
    return max(now, most)


def shape(placement: Placement) -> PlacementGroupFactory:
    """What a stint holds: all of its workers, which are processes on its machine; nothing of theirs
    where Ray Train places them on several, or they would be counted twice and never start."""
    if placement.nodes > 1:
        return PlacementGroupFactory([{"memory": STINT_BYTES}])
    workers = placement.workers
    return PlacementGroupFactory(
        [{"CPU": placement.cpus * workers, "GPU": placement.gpus * workers}]
    )


def grows() -> bool:
    """Whether an autoscaler adds nodes to the cluster."""
    if is_autoscaler_v2():
        return True
    status = json.loads(_internal_kv_get(_STATUS) or "{}")
    types = (status.get("autoscaler_report") or {}).get("active_nodes", {})
    return any(not name.startswith(_UNSCALED) for name in types)


@contextmanager
def one_host(path: Path) -> Iterator[None]:
    """For a sweep, written in `path`, whose store is this machine's.

    Raises ConfigError on a cluster of several hosts, and on one that may become that.
    """
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    if len(hosts) > 1 or grows():
        has = f"has {len(hosts)} hosts" if len(hosts) > 1 else "adds hosts as it needs them"
        raise ConfigError(
            f"{path}: placement.store = local is not allowed here: the cluster {has}, and only one"
            " would reach it; name a store that all reach, {url: s3://…, endpoint: https://…}"
        )
    yield


@contextmanager
def roomy(path: Path, placement: Placement) -> Iterator[None]:
    """For a sweep, written in `path`: says that a trial fits nowhere yet, and raises ConfigError
    where it never will, on a cluster that is this machine alone."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    if not places(nodes, placement):
        needs = f"a trial needs {needs_of(placement)}"
        if is_own():
            has = nodes[0]["Resources"]
            raise ConfigError(
                f"{path}: placement: {needs}, and this machine has {has.get('CPU', 0):g} CPUs and"
                f" {has.get('GPU', 0):g} GPUs; lower `cpus`, `gpus` or `workers`, or name a"
                " cluster by RAY_ADDRESS"
            )
        log.warning("no node of the cluster has room yet (%s); waiting for one", needs)
    yield


def _workers(resources: Mapping[str, float], placement: Placement) -> int:
    return workers_on(resources.get("CPU", 0), resources.get("GPU", 0), placement)
