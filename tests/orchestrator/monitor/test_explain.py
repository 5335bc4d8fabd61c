"""Explanations of a trial: its state, dependencies and results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.errors import InputError
from orchestrator.monitor.explain import (
    MAX_EVENTS,
    MAX_LINES,
    explain,
    explain_state,
    find_trial,
)
from orchestrator.monitor.status import Status
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.store.leases import LeaseHolder
from orchestrator.store.record import Record, TicketRef
from tests.support.sweeps import plan_of, sweep_document

HOLDER = LeaseHolder(run="r", host="node-a")


@pytest.fixture(scope="module")
def plan() -> Plan:
    """One chain of two levels from theta_0, a random control at each."""
    return plan_of(sweep_document(schedule={"rate": 0.2, "levels": 2}, controls=["random"]))


def cell(plan: Plan, source: str, level: int) -> tuple[str, str]:
    """Keys of the run, and of the ticket applied to it."""
    cells = [c for c in plan.cells if c.curve.source == source and c.level == level]
    assert len(cells) == 1
    return cells[0].trial, cells[0].ticket


def records_of(plan: Plan, *keys: str) -> dict[str, Record]:
    return {key: Record(key=key, kind=plan.trials[key].kind, spec={}) for key in keys}


def test_a_trial_is_found_by_a_prefix_of_its_key(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    assert find_trial(plan, dense).key == dense
    shortest = next(
        n for n in range(1, 64) if sum(k.startswith(dense[:n]) for k in plan.trials) == 1
    )
    assert find_trial(plan, dense[:shortest]).key == dense
    with pytest.raises(InputError, match="does not match the key of any trial"):
        find_trial(plan, "zz")
    with pytest.raises(InputError, match=f"keys of {len(plan)} trials .* give more digits"):
        find_trial(plan, "")


def test_the_state_of_a_trial_is_explained(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    first, ticket_key = cell(plan, "imp", 1)

    def explanation(key: str, status: Status) -> str:
        return explain_state(plan.trials[key], status)

    assert explanation(dense, Status()).startswith("pending: ready to run")
    assert explanation(first, Status()).startswith(f"pending: waits for {ticket_key[:12]}")
    assert explanation(dense, Status(records=records_of(plan, dense))).startswith("committed")
    assert explanation(dense, Status(running={dense: HOLDER})).startswith("running")
    assert explanation(ticket_key, Status(running={dense: HOLDER})).startswith("running"), (
        "that run produces it"
    )
    assert f"a replay of {dense[:12]}" in explanation(
        ticket_key, Status(records=records_of(plan, dense))
    )
    assert explanation(dense, Status(failures={dense: {"error": "it broke"}})).startswith("failed")
    skipped = Status(skipped=frozenset([first]))
    assert explanation(first, skipped).startswith("skipped: not needed")
    failed = replace(skipped, failures={first: {"error": "it broke"}})
    assert explanation(first, failed).startswith("skipped: not needed"), "no run retries it"


def test_a_dense_run_is_explained(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    _, ticket_key = cell(plan, "imp", 1)
    rows = explain(plan, plan.trials[dense], Status(), "x.yaml", mlflow=["http://mlflow"])
    assert rows["trial"] == [dense, "train uniter-tiny easy_vqa level 0"]
    assert rows["requested by"] == [
        "study main · uniter-tiny · easy_vqa · recipe short · theta_0 · dense · seed 0 · level 0"
        " (0.00% pruned)"
    ]
    assert "needs" not in rows
    assert any(line.startswith(ticket_key[:12]) for line in rows["produces"])
    assert rows["affects"] == ["3 of 5 scores"], "its own, and the chain's two"
    assert rows["log"] == [f"sweepstakes logs {dense[:12]} --sweep x.yaml"]
    assert rows["MLflow"][0] == "http://mlflow"
    assert dense in rows["MLflow"][1]


def test_a_ticket_produced_by_a_run_is_explained(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    first, ticket_key = cell(plan, "imp", 1)
    ticket = TicketRef(sha256="ab" * 32, kept=80, total=100, bytes=20)
    record = Record(
        key=ticket_key, kind="prune", spec={}, ticket=ticket, created_at="2026-01-02T03:04:05Z"
    )
    status = Status(records={ticket_key: record, **records_of(plan, dense)})
    rows = explain(plan, plan.trials[ticket_key], status, "x.yaml", mlflow=["http://mlflow"])
    assert rows["produced by"] == [f"{dense[:12]} train uniter-tiny easy_vqa level 0: committed"]
    assert rows["log"] == [f"sweepstakes logs {dense[:12]} --sweep x.yaml"]
    assert [line.split()[0] for line in rows["needed by"]] == [first[:12]]
    assert rows["affects"] == ["2 of 5 scores"]
    assert rows["ticket"] == [
        f"masks/sha256/ab/{'ab' * 32}.parquet",
        "keeps 80 of 100 weights: 20.00% pruned",
    ]
    assert "MLflow" not in rows, "only training runs are in MLflow"


def test_a_failure_and_a_result_are_explained(plan: Plan) -> None:
    first, ticket_key = cell(plan, "imp", 1)
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
    assert rows["applied ticket"][1] == "keeps 60 of 100 weights: 40.00% pruned"
    assert rows["needs"] == [
        f"{ticket_key[:12]} prune (magnitude, 20.0%) uniter-tiny easy_vqa level 1: pending"
    ]


def test_many_children_fit_on_a_screen() -> None:
    rates = [{"rate": rate, "levels": 1} for rate in (0.1, 0.2, 0.3, 0.4)]
    wide = plan_of(sweep_document(rewind=list(range(11)), schedule=rates, controls=[]))
    dense = next(c.trial for c in wide.cells if c.curve.source == DENSE)
    produced = explain(wide, wide.trials[dense], Status(), "x.yaml")["produces"]
    assert len(produced) == MAX_LINES + 1
    assert produced[-1] == "and 2 more", "10 rewind points and 4 tickets"


def test_the_last_events_of_a_trial_are_shown(plan: Plan) -> None:
    dense, _ = cell(plan, DENSE, 0)
    events = [f"event {n}" for n in range(MAX_EVENTS + 3)]
    rows = explain(plan, plan.trials[dense], Status(), "x.yaml", events=events[:2])
    assert rows["events"] == events[:2]
    rows = explain(plan, plan.trials[dense], Status(), "x.yaml", events=events)
    assert rows["events"] == ["3 earlier", *events[3:]]
