"""What nodes cost while a run goes on, and when its budget ends it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import ray

from orchestrator.cost.ledger import Foresight, Ledger
from orchestrator.cost.prices import HEAD
from orchestrator.monitor.budget import Meter, groups
from orchestrator.plan.graph import Plan, Trial
from orchestrator.plan.work import work_of
from orchestrator.ray_cluster.node_watch import shown
from orchestrator.schedule.frontier import Frontier, Unit
from orchestrator.sweep.config import Placement
from orchestrator.tune import driver
from orchestrator.worker.protocol import Done, Listen, Work
from tests.support.profiles import ON_DEMAND, SPOT, profile
from tests.support.sweeps import document, plan_of

HOUR_S = 3600.0
NODE = {"Resources": {"CPU": 16.0}, "Labels": {"ray.io/node-group": "spot"}}


def test_nodes_are_told_apart_as_ray_labels_them() -> None:
    head = {
        "Resources": {"node:__internal_head__": 1.0},
        "Labels": {"ray.io/node-group": "headgroup"},
    }
    found = groups(
        [
            NODE | head | {"NodeID": "a"},
            NODE | {"NodeID": "b"},
            NODE | {"NodeID": "d", "Labels": {}},
        ]
    )
    assert list(found) == ["a", "b", "d"]
    assert (found["a"], found["b"]) == (HEAD, "spot")
    assert found["d"] not in (HEAD, "spot")


def test_a_node_is_charged_from_before_it_is_seen_until_it_is_missed() -> None:
    """The head stays for 4 h; two spot nodes are seen at 1 h and at 2 h, and one of them at 3 h."""
    ledger = Ledger()
    for hour, spot in enumerate([[], ["a", "b"], ["a", "b"], ["a"], []]):
        ledger.see({"0": HEAD} | dict.fromkeys(spot, "spot"), 1e6 + HOUR_S * hour)
    assert ledger.hours == pytest.approx({HEAD: 4.0, "spot": 4 + 3})
    assert ledger.money(profile(SPOT)) == pytest.approx(4 * 0.5 + 7 * 4.0)


def test_a_node_that_comes_back_under_another_id_is_another_node() -> None:
    ledger = Ledger()
    ledger.see({"a": "spot"}, 0.0)
    ledger.see({"b": "spot"}, HOUR_S)
    assert ledger.hours == {"spot": 2.0}


def hour(trial: Trial) -> float:
    return HOUR_S if trial.kind == "train" else 0.0


def chain(plan: Plan) -> list[Unit]:
    """The only chain's units, as one lane; an hour each."""
    return Frontier(plan, cost=hour).units


def foresight(pace_s: float) -> Foresight:
    """A place is a quarter of an on-demand node at 12, and the head costs 0.5."""
    return Foresight(profile(SPOT, ON_DEMAND), Placement(gpus=1), pace_s, HOUR_S)


def test_what_is_in_hand_and_one_more_like_it_is_still_to_be_paid() -> None:
    lane = chain(plan_of(document(controls=[])))
    ahead = foresight(1.0)
    assert ahead.money(0.0) == pytest.approx(3 + 0.5)
    ahead.begun(lane[0], 0.0)
    assert ahead.money(0.0) == pytest.approx(3 + 3 + 0.5)
    assert ahead.money(HOUR_S / 2) == pytest.approx(1.5 + 3 + 0.5)
    assert ahead.money(5 * HOUR_S) == pytest.approx(3 + 0.5)
    ahead.ended(lane)
    assert ahead.money(0.0) == pytest.approx(3 + 0.5)


def test_the_pace_of_this_run_corrects_what_was_expected() -> None:
    lane = chain(plan_of(document(controls=[])))
    for pace in (0.0, 1.0):
        ahead = foresight(pace)
        ahead.begun(lane[0], 0.0)
        ahead.committed(lane[0], 2 * HOUR_S)
        ahead.begun(lane[1], 2 * HOUR_S)
        assert ahead.money(2 * HOUR_S) == pytest.approx(2 * (3 + 3 + 0.5))


def test_a_run_that_went_on_from_a_checkpoint_makes_no_other_look_short() -> None:
    lane = chain(plan_of(document(controls=[])))
    ahead = foresight(1.0)
    ahead.begun(lane[0], 0.0)
    ahead.committed(lane[0], HOUR_S / 60)
    assert ahead.money(HOUR_S) == pytest.approx(3 + 0.5)


def test_a_budget_below_one_trial_begins_none() -> None:
    plan = plan_of(document(controls=[]))
    known = profile(SPOT, ON_DEMAND)
    for budget, exhausted in ((3.4, True), (3.6, False)):
        meter = Meter(known, Placement(gpus=1), budget, hour, [t for t in plan if hour(t)])
        assert meter.exhausted() == exhausted


def test_without_any_measurement_nothing_is_foreseen() -> None:
    ahead = foresight(0.0)
    ahead.begun(chain(plan_of(document(controls=[])))[0], 0.0)
    assert ahead.money(HOUR_S) == 0.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@dataclass
class Endless:
    """At level 1 it works until the run is drained."""

    listen: Listen

    def perform(self, work: Work) -> Done:
        while work.head.level == 1 and self.listen() == "go":
            time.sleep(0.01)
        return Done([trial.key for trial in work.members], 1.0)


@pytest.mark.usefixtures("cluster")
def test_a_budget_drains_a_run_and_the_bill_says_so() -> None:
    """The head at 1 per second; but for the budget, the run would not end."""
    plan = plan_of(document(controls=[]))
    placement = Placement(slots=1)
    known = profile(SPOT | {"price_per_hour": 0.0}, head=HOUR_S)
    meter = Meter(known, placement, 4.0, work_of, list(plan))
    summary = driver.run(
        *(plan, set(), Endless, placement, meter), meter=meter, attend=[shown(meter.see)]
    )
    assert summary.exhausted
    assert summary.finished <= 2
    assert (summary.failed, summary.blocked) == (0, 0)
    bill = meter.bill()
    assert bill.exhausted
    assert bill.money >= 4.0
    assert bill.hours == {HEAD: pytest.approx(bill.money / HOUR_S)}
    assert (bill.budget, bill.currency) == (4.0, "EUR")


@pytest.mark.usefixtures("cluster")
def test_a_run_without_a_budget_is_billed_all_the_same() -> None:
    known = profile(SPOT, head=HOUR_S)
    meter = Meter(known, Placement(), None, work_of, [])
    with shown(meter.see):
        assert not meter.exhausted()
    assert 0 < meter.bill().money == meter.spent()
    assert not meter.bill().exhausted
