"""The state of a sweep from its store, and the time left."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from orchestrator.monitor.status import Status, eta_s, render_status
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.store.leases import LeaseHolder
from orchestrator.store.record import Record
from tests.support.sweeps import plan_of, sweep_document

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
RUN_S = 60.0


def record(plan: Plan, key: str, ended: datetime) -> Record:
    trial = plan.trials[key]
    costs = {"seconds": RUN_S, "steps": 10.0} if trial.kind == "train" else {}
    scores = {"score": 90.0} if trial.kind == "train" else {}
    return Record(
        key=key, kind=trial.kind, spec={}, costs=costs, scores=scores, created_at=ended.isoformat()
    )


def holder(host: str) -> LeaseHolder:
    return LeaseHolder(run="r", host=host)


def independent_runs(count: int) -> Plan:
    """Per seed a dense run, and a run on a random ticket that does not depend on it."""
    seeds = list(range(count))
    return plan_of(
        sweep_document(
            seed=seeds, tickets=[], controls=["random"], schedule={"rate": 0.5, "levels": 1}
        )
    )


def runs(plan: Plan) -> list[str]:
    return [trial.key for trial in plan.training_runs()]


def done(plan: Plan, count: int, every_s: float, last: datetime = NOON) -> dict[str, Record]:
    """Records of the first runs, which end at intervals of `every_s`, the last at `last`."""
    keys = runs(plan)[:count]
    ends = [last - timedelta(seconds=every_s * (count - 1 - n)) for n in range(count)]
    return {key: record(plan, key, end) for key, end in zip(keys, ends, strict=True)}


def time_left(
    plan: Plan, records: dict[str, Record], *running: str, now: datetime = NOON
) -> float | None:
    status = Status(records=records, running={key: holder("a") for key in running})
    return eta_s(status.board(plan), status, now)


def test_the_time_left_follows_the_throughput_of_the_last_commits() -> None:
    """Four at a time, 60 s each: one ends every 15 s, and 12 of 20 are left."""
    plan = independent_runs(10)
    keys = runs(plan)
    assert len(keys) == 20
    records = done(plan, 8, every_s=15.0)
    expected = 12 * (7 * 15.0 + RUN_S) / 8
    assert time_left(plan, records, *keys[8:12]) == pytest.approx(expected)


def test_idle_time_between_runs_does_not_count() -> None:
    plan = independent_runs(10)
    keys = runs(plan)
    records = done(plan, 8, every_s=15.0)
    yesterday = {key: record(plan, key, NOON - timedelta(hours=20)) for key in keys[:4]}
    expected = 12 * (3 * 15.0 + RUN_S) / 4
    assert time_left(plan, records | yesterday, *keys[8:12]) == pytest.approx(expected)


def test_a_chain_takes_the_sum_of_its_runs() -> None:
    plan = plan_of(sweep_document(schedule={"rate": 0.2, "levels": 4}, controls=["random"]))
    chain = [c.trial for c in plan.cells if c.curve.source == "imp"]
    others = [trial.key for trial in plan if trial.key not in chain]
    records = {key: record(plan, key, NOON) for key in others}
    assert time_left(plan, records, chain[0]) == pytest.approx(4 * RUN_S)


def test_the_time_left_is_unknown_without_a_worker_or_a_measurement() -> None:
    plan = independent_runs(2)
    assert time_left(plan, done(plan, 2, every_s=1.0)) is None
    assert time_left(plan, {}, runs(plan)[0]) is None


def test_failed_and_blocked_runs_take_no_time() -> None:
    plan = independent_runs(10)
    keys = runs(plan)
    records = done(plan, 8, every_s=15.0)
    before = time_left(plan, records, *keys[8:12])
    status = Status(
        records=records,
        running={key: holder("a") for key in keys[8:12]},
        failures={key: {"error": "broken"} for key in keys[14:]},
    )
    after = eta_s(status.board(plan), status, NOON)
    assert before is not None
    assert after == pytest.approx(before / 2)


def test_skipped_runs_take_no_time_and_a_sweep_without_others_is_done() -> None:
    plan = independent_runs(10)
    keys = runs(plan)
    skipped = frozenset(keys[14:])
    records = done(plan, 8, every_s=15.0)
    before = time_left(plan, records, *keys[8:12])
    status = Status(
        records=records, running={key: holder("a") for key in keys[8:12]}, skipped=skipped
    )
    after = eta_s(status.board(plan), status, NOON)
    assert before is not None
    assert after == pytest.approx(before / 2)
    rest = {trial.key: record(plan, trial.key, NOON) for trial in plan if trial.key not in skipped}
    text = render(plan, Status(records=rest, skipped=skipped))
    assert "14/20 trials, 0 failed, 6 skipped" in text
    assert "resume" not in text
    failures = {keys[14]: {"error": "it broke when it was wanted"}}
    assert render(plan, Status(records=rest, failures=failures, skipped=skipped)) == text


def render(plan: Plan, status: Status) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render_status(plan, status, "x.yaml"))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_status_shows_failures_and_workers() -> None:
    plan = plan_of(sweep_document(schedule={"rate": 0.2, "levels": 2}, controls=["random"]))
    dense = next(c.trial for c in plan.cells if c.curve.source == DENSE)
    first, second = (c.trial for c in plan.cells if c.curve.source == "imp")
    random = next(c.trial for c in plan.cells if c.curve.source == "random")
    status = Status(
        records={dense: record(plan, dense, NOON)},
        running={random: holder("node-a"), dense: holder("node-b")},  # the second one is a replay
        failures={
            first: {"error": "[loss] is not finite\nmore", "attempts": 3, "host": "node-c"},
        },
    )
    text = render(plan, status)
    assert "●✗–" in text
    assert "1/5 trials, 1 running, 1 failed, 1 blocked, about" in text
    assert "workers: 1 on node-a, 1 on node-b" in text
    line = next(line for line in text.splitlines() if line.startswith("failed "))
    assert line.split()[1] == first[:12]
    assert line.rstrip().endswith("(attempt 3, node-c): [loss] is not finite")
    assert f"sweepstakes logs {first[:12]} --sweep x.yaml" in text
    assert second[:12] not in text


def test_a_sweep_without_workers_shows_how_to_resume() -> None:
    plan = independent_runs(2)
    assert (
        "0/4 trials, 0 running, 0 failed; no worker is active, resume with: sweepstakes run x.yaml"
        in render(plan, Status())
    )
    everything = {trial.key: record(plan, trial.key, NOON) for trial in plan}
    assert render(plan, Status(records=everything)).rstrip().endswith("4/4 trials, 0 failed")
