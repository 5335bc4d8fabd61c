"""How many trials fit on a cluster, and what a slot on it costs."""

from __future__ import annotations

import pytest

from orchestrator.cost.prices import HEAD_GROUP, max_slots, offers, price_per_hour
from orchestrator.errors import ConfigError
from orchestrator.sweep.config import Placement
from tests.support.profiles import ON_DEMAND, SPOT, profile


def test_the_scarcest_resource_limits_the_trials_on_a_node() -> None:
    """16 CPUs and 4 GPUs fit 4 trials with one GPU, 8 with half a GPU, 2 with 6 CPUs."""
    cluster = profile(SPOT)
    for placement, count in (
        (Placement(gpus=1), 4),
        (Placement(gpus=0.5), 8),
        (Placement(gpus=0.5, cpus=6), 2),
        (Placement(), 16),
    ):
        (offer,) = offers(cluster, placement)
        assert offer.trials_per_node == count
        assert offer.slot_price == pytest.approx(4.0 / count)
        assert max_slots(cluster, placement) == 8 * count


def test_inexact_fractions_fill_a_gpu() -> None:
    (offer,) = offers(profile({"name": "one", "gpus": 1}), Placement(gpus=0.1))
    assert offer.trials_per_node == 10


def test_workers_of_a_trial_share_a_node_or_are_spread() -> None:
    cluster = profile(SPOT)
    (together,) = offers(cluster, Placement(gpus=1, workers=2))
    assert (together.trials_per_node, together.slots, together.slot_price) == (2, 16, 2.0)
    (spread,) = offers(cluster, Placement(gpus=1, workers=8, nodes=2))
    assert (spread.trials_per_node, spread.slots, spread.slot_price) == (1, 4, 8.0)
    assert [spread.nodes_for(trials) for trials in (0, 1, 3)] == [0, 2, 6]


def test_the_cheapest_slot_comes_first_regardless_of_node_price() -> None:
    big = {"name": "big", "gpus": 8, "cpus": 32, "max": 1, "price_per_hour": 6.0}
    sorted_offers = offers(profile(ON_DEMAND, SPOT, big), Placement(gpus=1))
    assert [offer.node.name for offer in sorted_offers] == ["big", "spot", "on-demand"]


@pytest.mark.parametrize(
    "placement",
    [Placement(gpus=5), Placement(cpus=17), Placement(gpus=1, workers=18, nodes=9)],
    ids=["too many GPUs", "too many CPUs", "too many nodes"],
)
def test_a_trial_that_fits_on_no_node_is_refused_with_its_needs(placement: Placement) -> None:
    with pytest.raises(ConfigError, match=r"profile 'test' offers that; lower") as refused:
        offers(profile(SPOT), placement)
    assert "\n" not in str(refused.value)


def test_an_unknown_node_type_costs_as_much_as_the_most_expensive() -> None:
    cluster = profile(SPOT, ON_DEMAND)
    prices = {
        group: price_per_hour(cluster, group)
        for group in (HEAD_GROUP, "spot", "on-demand", "other")
    }
    assert prices == {HEAD_GROUP: 0.5, "spot": 4.0, "on-demand": 12.0, "other": 12.0}
