"""Trials that cannot succeed: they are named, and nothing else suffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.api import workspace
from orchestrator.plan.graph import Trial
from tests.support.harness import FRUGAL, Home


def sweep(data: Path) -> dict[str, Any]:
    """Dense and one level in each of three studies: a ViLT that can be trained, a UNITER with a
    learning rate at which no weight stays finite, and one on a folder without the data."""
    study = {"task": "easy_vqa", "schedule": {"rate": 0.3, "levels": 1}, "controls": []}
    short = {"steps": 2, "batch_size": 8, "eval_examples": 64}
    return {
        "name": "failing",
        "placement": FRUGAL,
        "recipes": {"short": short, "hot": short | {"lr": 1e30, "warmup": 0.0}},
        "tasks": {"empty": {"task": "easy_vqa", "data": str(data)}},
        "studies": {
            "sound": study | {"model": "vilt-tiny", "recipe": "short"},
            "poisoned": study | {"model": "uniter-tiny", "recipe": "hot"},
            "starved": study | {"model": "uniter-tiny", "recipe": "short", "task": "empty"},
        },
    }


def test_a_run_that_fails_blocks_its_descendants_only(home: Home, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "README").write_text("nothing else")
    file = home.sweep(sweep(data))
    plan = home.plan(file)
    dense: dict[str, Trial] = {
        cell.curve.study: plan.trials[cell.trial] for cell in plan.cells if cell.level == 0
    }
    poisoned, starved = dense["poisoned"].key, dense["starved"].key
    ended = home.call("run", file)
    assert ended.code == 1, ended
    told = {line.split()[1]: line for line in ended.err.splitlines() if line.startswith("failed")}
    assert set(told) == {f"{poisoned[:12]}:", f"{starved[:12]}:"}
    assert "lower the learning rate" in told[f"{poisoned[:12]}:"]
    assert str(data) in told[f"{starved[:12]}:"]
    assert "2 blocked" in ended.err
    assert "Traceback" not in ended.out + ended.err

    done = {trial.key for trial in plan if trial.model == "vilt-tiny"}
    assert set(home.records()) == done
    with home.store() as store:
        notes = store.failures()
    assert set(notes) == {poisoned, starved}
    assert {note["attempts"] for note in notes.values()} == {3}
    assert all("Traceback" in note["trace"] for note in notes.values())
    with workspace.serving(home.path, ["s3"]):  # kept up from one command to the next
        watched = home.call("status", file, "--watch")
        assert "2/6 trials, 2 failed, 2 blocked" in watched.out
        assert f"failed {poisoned[:12]}" in watched.out
        logs = home.call("logs", poisoned[:12])
        assert logs.out.count("=== attempt") == 3
        assert "lower the learning rate" in logs.out
        assert "Traceback" in logs.out
        (trained,) = (
            key for key in done if plan.trials[key].kind == "train" and plan.trials[key].level
        )
        assert "ended after" in home.call("logs", trained[:12]).out
        explained = home.call("explain", file, trained[:12]).out
        assert "committed" in explained
        assert "score" in explained
    page = (home.path / "reports" / "failing" / "report.html").read_text()
    assert poisoned[:12] in page
