"""What places for trials a cluster profile offers, and what they cost. Pure.

A place is what one trial occupies: a share of a node, or of several nodes alike if its workers are
spread. Money is in the profile's currency, and nodes are paid for as long as they are up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.errors import ConfigError
from orchestrator.sweep.config import Placement

HEAD = "head"
"""Stands for the head node where nodes are told apart by type; the head runs no trials."""


class Head(Protocol):
    @property
    def price_per_hour(self) -> float: ...


class NodeType(Protocol):
    """One kind of worker node; `min` to `max` of them are up."""

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


class Profile(Protocol):
    """The part of a cluster profile that costs are read from."""

    @property
    def name(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def head(self) -> Head: ...
    @property
    def workers(self) -> Sequence[NodeType]: ...


def price_of(profile: Profile, group: str) -> float:
    """Per hour of a node of the type `group`. A node of a type that the profile does not name
    counts as the dearest it names: what a budget protects is never told too low."""
    known = {node.name: node.price_per_hour for node in profile.workers}
    known[HEAD] = profile.head.price_per_hour
    return known[group] if group in known else max(known.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """The places of one node type."""

    node: NodeType
    per_node: int
    """Shares that a node of this type holds."""
    span: int
    """Nodes over which one trial is spread."""

    @property
    def places(self) -> int:
        """Trials at once when all nodes of the type are up."""
        return self.node.max * self.per_node // self.span

    @property
    def price(self) -> float:
        """Per hour of one place, its nodes full."""
        return self.node.price_per_hour * self.span / self.per_node

    def nodes(self, trials: int) -> int:
        """How many nodes so many trials at once take."""
        return math.ceil(trials * self.span / self.per_node)


def offers(profile: Profile, placement: Placement) -> list[Offer]:
    """The types that can hold a trial, cheapest place first; ConfigError if there is none."""
    found = [
        Offer(node=node, per_node=per_node, span=placement.nodes)
        for node in profile.workers
        if (per_node := workers_on(node.cpus, node.gpus, placement) // placement.share)
        and node.max >= placement.nodes
    ]
    if not found:
        raise ConfigError(
            f"placement: a trial needs {needs_of(placement)}, but no node type of the cluster"
            f" profile {profile.name!r} offers that; lower `cpus`, `gpus` or `workers`, or add a"
            " node type"
        )
    return sorted(found, key=lambda offer: offer.price)


def needs_of(placement: Placement) -> str:
    """`4 CPUs and 1 GPUs on a node`."""
    where = "a node" if placement.nodes == 1 else f"each of {placement.nodes} nodes"
    cpus, gpus = placement.cpus * placement.share, placement.gpus * placement.share
    return f"{cpus:g} CPUs and {gpus:g} GPUs on {where}"


def places(profile: Profile, placement: Placement) -> int:
    """Trials at once on the cluster at its largest."""
    return sum(offer.places for offer in offers(profile, placement))


def workers_on(cpus: float, gpus: float, placement: Placement) -> int:
    """Workers of trials that fit on a node of so many CPUs and GPUs."""
    fits = [cpus / placement.cpus]
    if placement.gpus:
        fits.append(gpus / placement.gpus)
    return int(min(fits) + 1e-9)  # 0.9 / 0.3 is 3
