"""Helper actors on this machine, which take no slot of a trial."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def local_actor(cls: type, *, max_concurrency: int) -> Any:
    """Start an actor of `cls` on this machine and return its handle."""
    here = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(cls)
        .options(
            num_cpus=0,
            max_concurrency=max_concurrency,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote()
    )
