"""How many trials a cluster profile holds, and what a place on it costs."""

from __future__ import annotations

import pytest

from orchestrator.cost.prices import HEAD, offers, places, price_of
from orchestrator.errors import ConfigError
from orchestrator.sweep.config import Placement
from tests.support.profiles import ON_DEMAND, SPOT, profile


def test_a_node_is_shared_by_what_it_has_least_of() -> None:
    """16 CPUs and 4 GPUs: 4 trials of one GPU, 8 of half a one, 2 of 6 CPUs."""
    known = profile(SPOT)
    for placement, count in (
        (Placement(gpus=1), 4),
        (Placement(gpus=0.5), 8),
        (Placement(gpus=0.5, cpus=6), 2),
        (Placement(), 16),
    ):
        (offer,) = offers(known, placement)
        assert offer.per_node == count
        assert offer.price == pytest.approx(4.0 / count)
        assert places(known, placement) == 8 * count


def test_fractions_that_floats_cannot_hold_fill_a_gpu() -> None:
    (offer,) = offers(profile({"name": "one", "gpus": 1}), Placement(gpus=0.1))
    assert offer.per_node == 10


def test_workers_of_a_trial_share_a_node_or_are_spread() -> None:
    known = profile(SPOT)
    (together,) = offers(known, Placement(gpus=1, workers=2))
    assert (together.per_node, together.places, together.price) == (2, 16, 2.0)
    (spread,) = offers(known, Placement(gpus=1, workers=8, nodes=2))
    assert (spread.per_node, spread.places, spread.price) == (1, 4, 8.0)
    assert [spread.nodes(trials) for trials in (0, 1, 3)] == [0, 2, 6]


def test_the_cheapest_place_comes_first_whatever_the_node_costs() -> None:
    big = {"name": "big", "gpus": 8, "cpus": 32, "max": 1, "price_per_hour": 6.0}
    found = offers(profile(ON_DEMAND, SPOT, big), Placement(gpus=1))
    assert [offer.node.name for offer in found] == ["big", "spot", "on-demand"]


@pytest.mark.parametrize(
    "placement",
    [Placement(gpus=5), Placement(cpus=17), Placement(gpus=1, workers=18, nodes=9)],
    ids=["too many GPUs", "too many CPUs", "too many nodes"],
)
def test_a_trial_that_no_node_holds_is_refused_with_what_it_needs(placement: Placement) -> None:
    with pytest.raises(ConfigError, match=r"profile 'test' offers that; lower") as refused:
        offers(profile(SPOT), placement)
    assert "\n" not in str(refused.value)


def test_a_node_of_a_type_nobody_named_costs_as_the_dearest() -> None:
    known = profile(SPOT, ON_DEMAND)
    prices = {group: price_of(known, group) for group in (HEAD, "spot", "on-demand", "other")}
    assert prices == {HEAD: 0.5, "spot": 4.0, "on-demand": 12.0, "other": 12.0}
