"""A sweep from its file to its report, and what a finished one answers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from orchestrator.plan.graph import DENSE
from tests.support.finished import Finished
from tests.support.harness import created


def test_everything_planned_is_committed(finished: Finished) -> None:
    assert finished.ended.code == 0, finished.ended
    assert set(finished.records) == set(finished.plan.trials)
    assert sum(record.kind == "train" for record in finished.records.values()) == 13


def test_what_was_trained_is_what_was_asked_for(finished: Finished) -> None:
    """Every cell wears the ticket it names, of the planned sparsity; no pruned weight moved; each
    level restarts from one and the same rewind point."""
    starts: dict[int, set[str]] = {}
    for cell in finished.plan.cells:
        record = finished.records[cell.trial]
        assert record.checks["pruned_nonzero"] == 0
        assert 0 <= record.scores["score"] <= 100
        if cell.curve.source == DENSE:
            assert record.ticket is None
            continue
        cut = finished.records[cell.ticket].ticket
        assert cut is not None
        assert record.ticket == cut
        assert cut.kept == cut.total - round(cut.total * cell.sparsity)
        starts.setdefault(cell.curve.rewind, set()).add(str(record.checks["start_sha256"]))
    # Hashes of the kept start weights: they differ with the ticket, and with the rewind point.
    assert not starts[0] & starts[2]


def test_a_second_run_runs_nothing(finished: Finished) -> None:
    again = finished.home.call("run", finished.sweep)
    assert again.code == 0, again
    assert "0 to run" in again.out
    now = created(finished.home.records())
    assert {key: now[key] for key in finished.records} == created(finished.records)


def test_the_plan_knows_what_exists(finished: Finished) -> None:
    shown = json.loads(finished.home.call("plan", finished.sweep, "--json").out)
    assert (shown["existing"], shown["to_run"], shown["replays"]) == (len(finished.plan), 0, 0)
    assert (shown["trials"], shown["naive_trials"], shown["critical_path"]) == (13, 27, 3)
    assert shown["estimate"]["slot_hours"] == {"low": 0, "high": 0}
    assert shown["estimate"]["measured"] == 1
    key = finished.plan.cells[0].trial
    told = finished.home.call("explain", finished.sweep, key[:10]).out
    assert key in told
    assert "committed" in told


def test_the_status_is_read_from_the_store(finished: Finished) -> None:
    status = finished.home.call("status", finished.sweep)
    assert status.code == 0, status
    assert "13/13 trials, 0 failed" in status.out


def test_the_report_of_the_run_and_the_one_made_later(finished: Finished, tmp_path: Path) -> None:
    """The same files, and the same numbers in them."""
    later = finished.home.call("report", finished.sweep, "--out", tmp_path)
    assert later.code == 0, later
    first = finished.home.path / "reports" / "tiny"
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    of_the_run = {"capacity.csv", "capacity.svg"}
    assert names | of_the_run == {
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
