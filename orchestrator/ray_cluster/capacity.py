"""Resources of a trial on a Ray cluster, and how many trials fit: now, and at its largest size."""

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

from orchestrator.cost.prices import describe_needs, trials_on
from orchestrator.errors import ConfigError
from orchestrator.ray_cluster.join import is_local
from orchestrator.sweep.config import Placement

log = logging.getLogger(__name__)

MAX_PENDING_TRIALS = 200
"""Trials that are pending at once on a cluster whose largest size is not known: Ray Tune's own
number, below the 600 or so placement groups that Ray is tested with (ray-project/ray#43451)."""
SESSION_BYTES = 2 * 2**30
"""Memory of a session whose workers are on other nodes: torch, and a trial's state in transit."""
_STATUS_KEY = "__autoscaling_status"
"""Where the autoscaler of `ray up` reports. Version 2 only reports that it exists."""
_FIXED_NODE_PREFIX = "node_"
"""Prefix of the types that the autoscaler gives to the nodes of a cluster of fixed size."""


def slots_on(nodes: Iterable[Mapping[str, Any]], placement: Placement) -> int:
    """Return how many trials fit on the live ones of `nodes`, given as by `ray.nodes()`."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    counts = [trials_on(each.get("CPU", 0), each.get("GPU", 0), placement) for each in resources]
    shares = [count for count in counts if count]
    return sum(shares) // placement.nodes if len(shares) >= placement.nodes else 0


def max_concurrent_trials(placement: Placement, max_slots: int | None = None) -> int:
    """Return how many trials may be running or pending at once.

    `max_slots` is the number of slots of the cluster at its largest size, if known.

    Ray Tune fixes this number when it starts, and a cluster grows only for pending trials. With
    today's number of slots, a cluster that has yet to grow would get one trial at a time.
    """
    if placement.slots is not None:
        return placement.slots
    now = slots_on(ray.nodes(), placement)  # type: ignore[no-untyped-call]
    if max_slots is None:
        # A head alone has no slot, and its autoscaler may not have reported yet.
        max_slots = MAX_PENDING_TRIALS if not now or has_autoscaler() else now
    return max(now, max_slots)


def trial_resources(placement: Placement) -> PlacementGroupFactory:
    """Resources of one Tune trial.

    Single-node: those of all its workers, which are processes on its machine. Multi-node: memory
    only, because Ray Train reserves the workers' resources itself. Counted twice, they would never
    be available.
    """
    if placement.nodes > 1:
        return PlacementGroupFactory([{"memory": SESSION_BYTES}])
    workers = placement.workers
    return PlacementGroupFactory(
        [{"CPU": placement.cpus * workers, "GPU": placement.gpus * workers}]
    )


def has_autoscaler() -> bool:
    """Whether an autoscaler adds nodes to the cluster."""
    if is_autoscaler_v2():
        return True
    status = json.loads(_internal_kv_get(_STATUS_KEY) or "{}")
    types = (status.get("autoscaler_report") or {}).get("active_nodes", {})
    return any(not name.startswith(_FIXED_NODE_PREFIX) for name in types)


@contextmanager
def require_one_host(path: Path) -> Iterator[None]:
    """Check, for the sweep file `path` whose store is on this machine, that no other host joins.

    A context manager, like `check_capacity`, because `run_plan` enters it once Ray is connected.

    Raises:
        ConfigError: the cluster has several hosts, or may get more.
    """
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    if len(hosts) > 1 or has_autoscaler():
        reason = f"has {len(hosts)} hosts" if len(hosts) > 1 else "adds hosts when it needs them"
        raise ConfigError(
            f"{path}: placement.store = local is not allowed here: the cluster {reason}, and only"
            " one could reach the store; use a store that all can reach, {url: s3://…, endpoint:"
            " https://…}"
        )
    yield


@contextmanager
def check_capacity(path: Path, placement: Placement) -> Iterator[None]:
    """Check that a trial of the sweep file `path` fits on the cluster; warn if none fits yet.

    Raises:
        ConfigError: the cluster is this machine alone, where a trial will never fit.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    if not slots_on(nodes, placement):
        needs = f"a trial needs {describe_needs(placement)}"
        if is_local():
            has = nodes[0]["Resources"]
            raise ConfigError(
                f"{path}: placement: {needs}, but this machine has {has.get('CPU', 0):g} CPUs and"
                f" {has.get('GPU', 0):g} GPUs; lower `cpus`, `gpus` or `workers`, or set"
                " RAY_ADDRESS to use a cluster"
            )
        log.warning("no node of the cluster has room yet (%s); waiting for one", needs)
    yield
