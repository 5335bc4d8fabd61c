"""A sweep from its file to its report, and the commands on a finished one."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from orchestrator.plan.graph import DENSE
from tests.support.finished import FinishedSweep
from tests.support.harness import commit_times


def test_everything_planned_is_committed(finished: FinishedSweep) -> None:
    assert finished.result.code == 0, finished.result
    assert set(finished.records) == set(finished.plan.trials)
    assert sum(record.kind == "train" for record in finished.records.values()) == 13


def test_every_cell_was_trained_as_requested(finished: FinishedSweep) -> None:
    """Each cell has its ticket, with the planned sparsity and without nonzero pruned weights.

    All levels of a chain restart from the same rewind point.
    """
    starts: dict[int, set[str]] = {}
    for cell in finished.plan.cells:
        record = finished.records[cell.trial]
        assert record.checks["pruned_nonzero"] == 0
        assert 0 <= record.scores["score"] <= 100
        if cell.curve.source == DENSE:
            assert record.ticket is None
            continue
        ticket = finished.records[cell.ticket].ticket
        assert ticket is not None
        assert record.ticket == ticket
        assert ticket.kept == ticket.total - round(ticket.total * cell.sparsity)
        starts.setdefault(cell.curve.rewind, set()).add(str(record.checks["start_sha256"]))
    # Hashes of the unpruned start weights, which differ by ticket and by rewind point.
    assert not starts[0] & starts[2]


def test_a_second_run_executes_nothing(finished: FinishedSweep) -> None:
    again = finished.home.run("run", finished.sweep)
    assert again.code == 0, again
    assert "0 to run" in again.out
    now = commit_times(finished.home.records())
    assert {key: now[key] for key in finished.records} == commit_times(finished.records)


def test_the_plan_counts_existing_trials(finished: FinishedSweep) -> None:
    shown = json.loads(finished.home.run("plan", finished.sweep, "--json").out)
    assert (shown["committed_trials"], shown["new_runs"], shown["replays"]) == (
        len(finished.plan),
        0,
        0,
    )
    assert (shown["training_runs"], shown["naive_training_runs"], shown["critical_path"]) == (
        13,
        27,
        3,
    )
    assert shown["estimate"]["slot_hours"] == {"low": 0, "high": 0}
    assert shown["estimate"]["measured_share"] == 1
    key = finished.plan.cells[0].trial
    explanation = finished.home.run("explain", finished.sweep, key[:10]).out
    assert key in explanation
    assert "committed" in explanation


def test_the_status_is_read_from_the_store(finished: FinishedSweep) -> None:
    status = finished.home.run("status", finished.sweep)
    assert status.code == 0, status
    assert "13/13 trials, 0 failed" in status.out


def test_a_later_report_equals_that_of_the_run(finished: FinishedSweep, tmp_path: Path) -> None:
    """The same files, and the same numbers in them."""
    later = finished.home.run("report", finished.sweep, "--out", tmp_path)
    assert later.code == 0, later
    first = finished.home.path / "reports" / "tiny"
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    only_of_the_run = {"capacity.csv", "capacity.svg", "events.jsonl"}
    assert names | only_of_the_run == {
        str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()
    }
    assert "report.html" in names
    assert {Path(name).suffix for name in names} == {
        *(".html", ".png", ".svg", ".md", ".csv", ".parquet"),
    }
    cells = pd.read_parquet(tmp_path / "tables" / "cells.parquet")
    assert len(cells) == len(finished.plan.cells)
    scores = {
        record.key: record.scores["score"] for record in finished.records.values() if record.scores
    }
    assert sorted(cells.score) == sorted(scores[cell.trial] for cell in finished.plan.cells)
