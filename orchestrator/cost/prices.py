"""Trial slots of a cluster profile, and what they cost. Pure.

A slot is what one trial occupies: a share of a node, or an equal share of several nodes if its
workers are spread. Money is in the profile's currency, and nodes are paid for while they are up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.errors import ConfigError
from orchestrator.sweep.config import Placement

HEAD_GROUP = "head"
"""Name of the head node's type. The head runs no trials."""


class HeadNode(Protocol):
    @property
    def price_per_hour(self) -> float: ...


class NodeType(Protocol):
    """A type of worker node; `min` to `max` nodes of it are up."""

    @property
    def name(self) -> str: ...
    @property
    def cpus(self) -> float: ...
    @property
    def gpus(self) -> float: ...
    @property
    def min(self) -> int: ...
    @property
    def max(self) -> int: ...
    @property
    def price_per_hour(self) -> float: ...


class PricedProfile(Protocol):
    """The part of a cluster profile that costs are read from."""

    @property
    def name(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def head(self) -> HeadNode: ...
    @property
    def workers(self) -> Sequence[NodeType]: ...


def price_per_hour(profile: PricedProfile, node_type: str) -> float:
    """Return the price per hour of a node.

    A type that the profile does not name costs as much as the most expensive one that it names, so
    that a budget never underestimates.
    """
    prices = {node.name: node.price_per_hour for node in profile.workers}
    prices[HEAD_GROUP] = profile.head.price_per_hour
    return prices[node_type] if node_type in prices else max(prices.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """The slots of one node type."""

    node: NodeType
    trials_per_node: int
    """Trials of which a node of this type can run a share at once."""
    nodes_per_trial: int
    """Nodes that one trial is spread over."""

    @property
    def slots(self) -> int:
        """Number of trials that can run at once when all nodes of the type are up."""
        return self.node.max * self.trials_per_node // self.nodes_per_trial

    @property
    def slot_price(self) -> float:
        """Price per hour of one slot on fully used nodes."""
        return self.node.price_per_hour * self.nodes_per_trial / self.trials_per_node

    def nodes_for(self, trials: int) -> int:
        """Return how many nodes `trials` take when they run at once."""
        return math.ceil(trials * self.nodes_per_trial / self.trials_per_node)


def offers(profile: PricedProfile, placement: Placement) -> list[Offer]:
    """Return the node types that fit a trial, the cheapest slot first.

    Raises:
        ConfigError: no node type fits a trial.
    """
    fitting = [
        Offer(node=node, trials_per_node=per_node, nodes_per_trial=placement.nodes)
        for node in profile.workers
        if (per_node := trials_on(node.cpus, node.gpus, placement)) and node.max >= placement.nodes
    ]
    if not fitting:
        raise ConfigError(
            f"placement: a trial needs {describe_needs(placement)}, but no node type of the cluster"
            f" profile {profile.name!r} offers that; lower `cpus`, `gpus` or `workers`, or add a"
            " node type"
        )
    return sorted(fitting, key=lambda offer: offer.slot_price)


def describe_needs(placement: Placement) -> str:
    """Describe what a trial needs: `4 CPUs and 1 GPUs on a node`."""
    where = "a node" if placement.nodes == 1 else f"each of {placement.nodes} nodes"
    cpus, gpus = (
        placement.cpus * placement.workers_per_node,
        placement.gpus * placement.workers_per_node,
    )
    return f"{cpus:g} CPUs and {gpus:g} GPUs on {where}"


def max_slots(profile: PricedProfile, placement: Placement) -> int:
    """Return how many trials can run at once on the cluster at its maximum size."""
    return sum(offer.slots for offer in offers(profile, placement))


def trials_on(cpus: float, gpus: float, placement: Placement) -> int:
    """Return of how many trials a node with these CPUs and GPUs can run a share at once."""
    ratios = [cpus / placement.cpus]
    if placement.gpus:
        ratios.append(gpus / placement.gpus)
    workers = int(min(ratios) + 1e-9)  # 0.9 / 0.3 must give 3
    return workers // placement.workers_per_node
