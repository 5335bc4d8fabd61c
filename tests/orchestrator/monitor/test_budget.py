"""Cost of nodes during a run, and the end of the run at its budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import ray

from orchestrator.cost.ledger import CostProjection, Ledger
from orchestrator.cost.prices import HEAD_GROUP
from orchestrator.monitor.budget import BudgetMeter, node_types
from orchestrator.plan.graph import Plan, Trial
from orchestrator.plan.work import work_of
from orchestrator.ray_cluster.node_watch import poll_nodes
from orchestrator.schedule.frontier import Frontier, WorkItem
from orchestrator.sweep.config import Placement
from orchestrator.tune import driver
from orchestrator.worker.protocol import Assignment, Poll, WorkResult
from tests.support.profiles import ON_DEMAND, SPOT, profile
from tests.support.sweeps import plan_of, sweep_document

HOUR_S = 3600.0
NODE = {"Resources": {"CPU": 16.0}, "Labels": {"ray.io/node-group": "spot"}}


def test_node_types_come_from_labels_of_ray() -> None:
    head = {
        "Resources": {"node:__internal_head__": 1.0},
        "Labels": {"ray.io/node-group": "headgroup"},
    }
    types = node_types(
        [
            NODE | head | {"NodeID": "a"},
            NODE | {"NodeID": "b"},
            NODE | {"NodeID": "d", "Labels": {}},
        ]
    )
    assert list(types) == ["a", "b", "d"]
    assert (types["a"], types["b"]) == (HEAD_GROUP, "spot")
    assert types["d"] not in (HEAD_GROUP, "spot")


def test_a_node_is_charged_from_the_sample_before_its_first_until_it_is_gone() -> None:
    """The head is up for 4 h, two spot nodes at 1 h and at 2 h, and one of them at 3 h."""
    ledger = Ledger()
    for hour, spot in enumerate([[], ["a", "b"], ["a", "b"], ["a"], []]):
        ledger.update({"0": HEAD_GROUP} | dict.fromkeys(spot, "spot"), 1e6 + HOUR_S * hour)
    assert ledger.hours == pytest.approx({HEAD_GROUP: 4.0, "spot": 4 + 3})
    assert ledger.money(profile(SPOT)) == pytest.approx(4 * 0.5 + 7 * 4.0)


def test_a_node_with_a_new_id_is_another_node() -> None:
    ledger = Ledger()
    ledger.update({"a": "spot"}, 0.0)
    ledger.update({"b": "spot"}, HOUR_S)
    assert ledger.hours == {"spot": 2.0}


def hour_per_run(trial: Trial) -> float:
    return HOUR_S if trial.kind == "train" else 0.0


def chain(plan: Plan) -> list[WorkItem]:
    """The work items of the only chain, an hour each."""
    return Frontier(plan, cost=hour_per_run).items


def projection(seconds_per_cost: float) -> CostProjection:
    """A slot is a quarter of an on-demand node at 12, and the head costs 0.5."""
    return CostProjection(profile(SPOT, ON_DEMAND), Placement(gpus=1), seconds_per_cost, HOUR_S)


def test_the_projection_covers_running_items_and_one_more() -> None:
    chunk = chain(plan_of(sweep_document(controls=[])))
    projected = projection(1.0)
    assert projected.money(0.0) == pytest.approx(3 + 0.5)
    projected.item_started(chunk[0], 0.0)
    assert projected.money(0.0) == pytest.approx(3 + 3 + 0.5)
    assert projected.money(HOUR_S / 2) == pytest.approx(1.5 + 3 + 0.5)
    assert projected.money(5 * HOUR_S) == pytest.approx(3 + 0.5)
    projected.chunk_ended(chunk)
    assert projected.money(0.0) == pytest.approx(3 + 0.5)


def test_the_measured_throughput_corrects_the_projection() -> None:
    chunk = chain(plan_of(sweep_document(controls=[])))
    for seconds_per_cost in (0.0, 1.0):
        projected = projection(seconds_per_cost)
        projected.item_started(chunk[0], 0.0)
        projected.item_committed(chunk[0], 2 * HOUR_S)
        projected.item_started(chunk[1], 2 * HOUR_S)
        assert projected.money(2 * HOUR_S) == pytest.approx(2 * (3 + 3 + 0.5))


def test_a_resumed_run_does_not_lower_the_projection() -> None:
    chunk = chain(plan_of(sweep_document(controls=[])))
    projected = projection(1.0)
    projected.item_started(chunk[0], 0.0)
    projected.item_committed(chunk[0], HOUR_S / 60)
    assert projected.money(HOUR_S) == pytest.approx(3 + 0.5)


def test_a_budget_below_the_cost_of_one_trial_starts_none() -> None:
    plan = plan_of(sweep_document(controls=[]))
    priced = profile(SPOT, ON_DEMAND)
    pending = list(plan.training_runs())
    for budget, exhausted in ((3.4, True), (3.6, False)):
        meter = BudgetMeter(priced, Placement(gpus=1), budget, hour_per_run, pending)
        assert meter.exhausted() == exhausted


def test_the_projection_is_0_without_measurements() -> None:
    projected = projection(0.0)
    projected.item_started(chain(plan_of(sweep_document(controls=[])))[0], 0.0)
    assert projected.money(HOUR_S) == 0.0


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
class EndlessWorker:
    """Works on level 1 until the run is drained."""

    poll: Poll

    def perform(self, work: Assignment) -> WorkResult:
        while work.trial.level == 1 and self.poll() == "continue":
            time.sleep(0.01)
        return WorkResult([trial.key for trial in work.members], 1.0)


@pytest.mark.usefixtures("cluster")
def test_a_run_is_drained_when_its_budget_is_spent() -> None:
    """The head costs 1 per second. Without the budget, the run would not end."""
    plan = plan_of(sweep_document(controls=[]))
    placement = Placement(slots=1)
    priced = profile(SPOT | {"price_per_hour": 0.0}, head=HOUR_S)
    meter = BudgetMeter(priced, placement, 4.0, work_of, list(plan))
    summary = driver.run_plan(
        *(plan, set(), EndlessWorker, placement, meter),
        budget=meter,
        contexts=[poll_nodes(meter.observe_nodes)],
    )
    assert summary.exhausted
    assert summary.finished <= 2
    assert (summary.failed, summary.blocked) == (0, 0)
    bill = meter.bill()
    assert bill.exhausted
    assert bill.money >= 4.0
    assert bill.hours == {HEAD_GROUP: pytest.approx(bill.money / HOUR_S)}
    assert (bill.budget, bill.currency) == (4.0, "EUR")


@pytest.mark.usefixtures("cluster")
def test_a_run_without_a_budget_has_a_bill_too() -> None:
    priced = profile(SPOT, head=HOUR_S)
    meter = BudgetMeter(priced, Placement(), None, work_of, [])
    with poll_nodes(meter.observe_nodes):
        assert not meter.exhausted()
    assert 0 < meter.bill().money == meter.spent()
    assert not meter.bill().exhausted
