"""What a trial takes of a Ray cluster, and how many fit: now, and when it has grown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get
from ray.tune import PlacementGroupFactory

from orchestrator.config import Placement

WAITING = 200
"""Trials that wait at once for a cluster to grow when nobody said how far it may: Ray Tune's own
number, below the some 600 placement groups that Ray is tested with (ray-project/ray#43451)."""
_STATUS = "__autoscaling_status"
"""Where the autoscaler of `ray up` reports; v2 says only that it is there."""
_UNSCALED = "node_"
"""So begin the types it gives to the nodes of a cluster that does not scale."""


def places(nodes: Iterable[Mapping[str, Any]], placement: Placement) -> int:
    """Trials that fit on the nodes alive, as `ray.nodes()` gives them."""
    workers = [_workers(node["Resources"], placement) for node in nodes if node["Alive"]]
    if placement.nodes > 1:
        return sum(workers) // placement.workers
    return sum(count // placement.workers for count in workers)


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
    """What a lane holds: all of its workers, which are processes on its machine."""
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


def _workers(resources: Mapping[str, float], placement: Placement) -> int:
    fits = [resources.get("CPU", 0) / placement.cpus]
    if placement.gpus:
        fits.append(resources.get("GPU", 0) / placement.gpus)
    return int(min(fits) + 1e-9)  # 0.9 / 0.3 is 3
