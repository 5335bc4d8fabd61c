"""Actors that hold a thing of this machine, and no place for a trial."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def local_actor(kind: type, *, calls: int) -> Any:
    """The handle of a new actor of `kind` on this machine; so many of its calls may be open."""
    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(kind)
        .options(
            num_cpus=0,
            max_concurrency=calls,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote()
    )
