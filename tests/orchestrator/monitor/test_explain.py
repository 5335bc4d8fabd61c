"""A trial's place in the plan, in words."""

from __future__ import annotations

import pytest

from orchestrator.errors import InputError
from orchestrator.monitor.explain import MOST_LINES, explain, find, why
from orchestrator.monitor.status import Status
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.store.leases import Holder
from orchestrator.store.record import Record, TicketRef
from tests.support.sweeps import document, plan_of

HERE = Holder(run="r", host="node-a")


@pytest.fixture(scope="module")
def plan() -> Plan:
    """One chain of two levels from theta_0, a random control at each."""
    return plan_of(document(schedule={"rate": 0.2, "levels": 2}, controls=["random"]))


def cell(plan: Plan, source: str, level: int) -> tuple[str, str]:
    """Keys of the run, and of the ticket it wears."""
    found = [c for c in plan.cells if c.curve.source == source and c.level == level]
    assert len(found) == 1
    return found[0].trial, found[0].ticket


def made(plan: Plan, *keys: str) -> dict[str, Record]:
    return {key: Record(key=key, kind=plan.trials[key].kind, spec={}) for key in keys}


def test_a_trial_is_found_by_the_beginning_of_its_key(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    assert find(plan, dense).key == dense
    shortest = next(
        n for n in range(1, 64) if sum(k.startswith(dense[:n]) for k in plan.trials) == 1
    )
    assert find(plan, dense[:shortest]).key == dense
    with pytest.raises(InputError, match="begins no key"):
        find(plan, "zz")
    with pytest.raises(InputError, match=f"keys of {len(plan)} trials .* give more digits"):
        find(plan, "")


def test_why_a_trial_runs_or_does_not(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    first, cut = cell(plan, "imp", 1)

    def told(key: str, status: Status) -> str:
        return why(plan.trials[key], status)

    assert told(dense, Status()).startswith("open: the store has no record of it, and all it needs")
    assert told(first, Status()).startswith(f"open: comes after {cut[:12]}")
    assert told(dense, Status(records=made(plan, dense))).startswith("committed")
    assert told(dense, Status(running={dense: HERE})).startswith("at work")
    assert told(cut, Status(running={dense: HERE})).startswith("at work"), "it rides that run"
    assert f"replaying {dense[:12]}" in told(cut, Status(records=made(plan, dense)))
    assert told(dense, Status(failures={dense: {"error": "it broke"}})).startswith("failed")


def test_the_place_of_a_dense_run(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    _, cut = cell(plan, "imp", 1)
    rows = explain(plan, plan.trials[dense], Status(), "x.yaml", mlflow="http://mlflow")
    assert rows["trial"] == [dense, "train uniter-tiny easy_vqa level 0"]
    assert rows["asked for by"] == [
        "study main · uniter-tiny · easy_vqa · recipe short · theta_0 · dense · seed 0 · level 0"
        " (0.00% pruned)"
    ]
    assert "needs" not in rows
    assert any(line.startswith(cut[:12]) for line in rows["gives"])
    assert rows["rests on it"] == ["3 of 5 scores"], "its own, and the chain's two"
    assert rows["log"] == [f"sweepstakes logs {dense[:12]} --sweep x.yaml"]
    assert rows["MLflow"][0] == "http://mlflow"
    assert dense in rows["MLflow"][1]


def test_the_place_of_a_cut_that_rides_a_run(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    first, cut = cell(plan, "imp", 1)
    ticket = TicketRef(sha256="ab" * 32, kept=80, total=100, bytes=20)
    record = Record(key=cut, kind="cut", spec={}, ticket=ticket, created="2026-01-02T03:04:05Z")
    status = Status(records={cut: record, **made(plan, dense)})
    rows = explain(plan, plan.trials[cut], status, "x.yaml", mlflow="http://mlflow")
    assert rows["made by"] == [f"{dense[:12]} train uniter-tiny easy_vqa level 0: committed"]
    assert rows["log"] == [f"sweepstakes logs {dense[:12]} --sweep x.yaml"]
    assert [line.split()[0] for line in rows["needed by"]] == [first[:12]]
    assert rows["rests on it"] == ["2 of 5 scores"]
    assert rows["ticket"] == [
        f"masks/sha256/ab/{'ab' * 32}.parquet",
        "keeps 80 of 100 weights: 20.00% pruned",
    ]
    assert "MLflow" not in rows, "only training runs are there"


def test_a_failure_and_a_result(plan: Plan) -> None:
    first, cut = cell(plan, "imp", 1)
    note = {"error": "the loss is not finite", "attempts": 3, "host": "node-a", "trace": "…"}
    rows = explain(plan, plan.trials[first], Status(failures={first: note}), "x.yaml")
    assert rows["last failure"] == ["error the loss is not finite", "attempts 3", "host node-a"]
    record = Record(
        key=first,
        kind="train",
        spec={},
        ticket=TicketRef(sha256="cd" * 32, kept=60, total=100, bytes=20),
        scores={"score": 87.25},
        costs={"seconds": 12.5},
    )
    rows = explain(plan, plan.trials[first], Status(records={first: record}), "x.yaml")
    assert rows["scores"] == ["score 87.25"]
    assert rows["cost"] == ["seconds 12.5"]
    assert rows["wears"][1] == "keeps 60 of 100 weights: 40.00% pruned"
    assert rows["needs"] == [
        f"{cut[:12]} magnitude cut to 20.0% uniter-tiny easy_vqa level 1: open"
    ]


def test_many_children_fit_a_screen() -> None:
    rates = [{"rate": rate, "levels": 1} for rate in (0.1, 0.2, 0.3, 0.4)]
    wide = plan_of(document(rewind=list(range(11)), schedule=rates, controls=[]))
    dense = next(c.trial for c in wide.cells if c.curve.source == DENSE)
    gives = explain(wide, wide.trials[dense], Status(), "x.yaml")["gives"]
    assert len(gives) == MOST_LINES + 1
    assert gives[-1] == "and 2 more", "10 rewind points and 4 cuts"
