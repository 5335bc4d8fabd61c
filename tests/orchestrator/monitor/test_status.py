"""How a sweep stands by its store, and how long it will still take."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from orchestrator.monitor.status import Status, eta_s, show
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.store.leases import Holder
from orchestrator.store.record import Record
from tests.support.sweeps import document, plan_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
RUN_S = 60.0


def record(plan: Plan, key: str, ended: datetime) -> Record:
    trial = plan.trials[key]
    costs = {"seconds": RUN_S, "steps": 10.0} if trial.kind == "train" else {}
    scores = {"score": 90.0} if trial.kind == "train" else {}
    return Record(
        key=key, kind=trial.kind, spec={}, costs=costs, scores=scores, created=ended.isoformat()
    )


def holder(host: str) -> Holder:
    return Holder(run="r", host=host)


def leaves(count: int) -> Plan:
    """A dense run and as many random tickets, each with its run, that need nothing of it."""
    seeds = list(range(count))
    return plan_of(
        document(seed=seeds, tickets=[], controls=["random"], schedule={"rate": 0.5, "levels": 1})
    )


def runs(plan: Plan) -> list[str]:
    return [trial.key for trial in plan.training_runs()]


def done(plan: Plan, count: int, every_s: float, last: datetime = NOON) -> dict[str, Record]:
    """The first runs, one ending every so many seconds, the last at `last`."""
    keys = runs(plan)[:count]
    ends = [last - timedelta(seconds=every_s * (count - 1 - n)) for n in range(count)]
    return {key: record(plan, key, end) for key, end in zip(keys, ends, strict=True)}


def left(
    plan: Plan, records: dict[str, Record], *running: str, now: datetime = NOON
) -> float | None:
    status = Status(records=records, running={key: holder("a") for key in running})
    return eta_s(status.board(plan), status, now)


def test_the_time_left_follows_the_last_commits() -> None:
    """Four at a time, each 60 s: one ends every 15 s, and 12 of 20 are left."""
    plan = leaves(10)
    keys = runs(plan)
    assert len(keys) == 20
    records = done(plan, 8, every_s=15.0)
    expected = 12 * (7 * 15.0 + RUN_S) / 8
    assert left(plan, records, *keys[8:12]) == pytest.approx(expected)


def test_a_night_in_which_nothing_ran_does_not_count() -> None:
    plan = leaves(10)
    keys = runs(plan)
    records = done(plan, 8, every_s=15.0)
    yesterday = {key: record(plan, key, NOON - timedelta(hours=20)) for key in keys[:4]}
    expected = 12 * (3 * 15.0 + RUN_S) / 4
    assert left(plan, records | yesterday, *keys[8:12]) == pytest.approx(expected)


def test_a_chain_takes_as_long_as_its_runs_in_a_row() -> None:
    plan = plan_of(document(schedule={"rate": 0.2, "levels": 4}, controls=["random"]))
    chain = [c.trial for c in plan.cells if c.curve.source == "imp"]
    others = [trial.key for trial in plan if trial.key not in chain]
    records = {key: record(plan, key, NOON) for key in others}
    assert left(plan, records, chain[0]) == pytest.approx(4 * RUN_S)


def test_no_time_is_told_while_nobody_is_at_work_or_nothing_was_measured() -> None:
    plan = leaves(2)
    assert left(plan, done(plan, 2, every_s=1.0)) is None
    assert left(plan, {}, runs(plan)[0]) is None


def test_what_failed_and_what_needs_it_takes_no_time() -> None:
    plan = leaves(10)
    keys = runs(plan)
    records = done(plan, 8, every_s=15.0)
    before = left(plan, records, *keys[8:12])
    status = Status(
        records=records,
        running={key: holder("a") for key in keys[8:12]},
        failures={key: {"error": "broken"} for key in keys[14:]},
    )
    after = eta_s(status.board(plan), status, NOON)
    assert before is not None
    assert after == pytest.approx(before / 2)


def shown(plan: Plan, status: Status) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(show(plan, status, "x.yaml"))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_failures_and_who_is_at_work_are_in_sight() -> None:
    plan = plan_of(document(schedule={"rate": 0.2, "levels": 2}, controls=["random"]))
    dense = next(c.trial for c in plan.cells if c.curve.source == DENSE)
    first, second = (c.trial for c in plan.cells if c.curve.source == "imp")
    random = next(c.trial for c in plan.cells if c.curve.source == "random")
    status = Status(
        records={dense: record(plan, dense, NOON)},
        running={random: holder("node-a"), dense: holder("node-b")},  # the latter a replay
        failures={
            first: {"error": "[loss] is not finite\nmore", "attempts": 3, "host": "node-c"},
        },
    )
    text = shown(plan, status)
    assert "●✗–" in text
    assert "1/5 trials, 1 running, 1 failed, 1 blocked, about" in text
    assert "at work: 1 on node-a, 1 on node-b" in text
    line = next(line for line in text.splitlines() if line.startswith("failed "))
    assert line.split()[1] == first[:12]
    assert line.rstrip().endswith("(attempt 3, node-c): [loss] is not finite")
    assert f"sweepstakes logs {first[:12]} --sweep x.yaml" in text
    assert second[:12] not in text


def test_a_sweep_that_nobody_works_on_says_how_to_go_on() -> None:
    plan = leaves(2)
    assert "0/4 trials, 0 running, 0 failed; nobody is at work: sweepstakes run x.yaml" in shown(
        plan, Status()
    )
    everything = {trial.key: record(plan, trial.key, NOON) for trial in plan}
    assert shown(plan, Status(records=everything)).rstrip().endswith("4/4 trials, 0 failed")
