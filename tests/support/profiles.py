"""Small cluster profiles that exist for tests only."""

from __future__ import annotations

from typing import Any

from cluster.profile import Profile


def profile(*workers: dict[str, Any], head: float = 0.5) -> Profile:
    """Return a profile with `workers`, each `{name, gpus, max, price_per_hour, …}`, by default with
    16 CPUs; `head` is the price of the head node."""
    defaults = {"cpus": 16, "memory_gb": 64.0, "price_per_hour": 1.0, "max": 4}
    return Profile.model_validate(
        {
            "name": "test",
            "image": "registry.example.org/sweepstakes:1",
            "currency": "EUR",
            "head": {"cpus": 4, "memory_gb": 16.0, "price_per_hour": head},
            "workers": [defaults | node_type for node_type in workers],
            "store": {"url": "s3://tickets"},
        }
    )


SPOT = {"name": "spot", "spot": True, "gpus": 4, "max": 8, "price_per_hour": 4.0}
ON_DEMAND = {"name": "on-demand", "gpus": 4, "max": 4, "price_per_hour": 12.0}
