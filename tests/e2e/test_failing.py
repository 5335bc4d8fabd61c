"""Trials that cannot succeed: they are reported, and only their descendants are blocked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.api import workspace
from orchestrator.plan.graph import Trial
from tests.support.harness import MINIMAL_PLACEMENT, Home


def sweep(data: Path) -> dict[str, Any]:
    """Three studies of a dense run and one level each.

    A ViLT that can be trained, a UNITER with a learning rate at which no weight stays finite, and
    one on questions with an answer that easy-VQA does not have.
    """
    study = {"task": "easy_vqa", "schedule": {"rate": 0.3, "levels": 1}, "controls": []}
    short = {"steps": 2, "batch_size": 8, "eval_examples": 64}
    return {
        "name": "failing",
        "placement": MINIMAL_PLACEMENT,
        "recipes": {"short": short, "hot": short | {"lr": 1e30, "warmup": 0.0}},
        "tasks": {"wrong": {"task": "easy_vqa", "data": str(data)}},
        "studies": {
            "valid": study | {"model": "vilt-tiny", "recipe": "short"},
            "diverging": study | {"model": "uniter-tiny", "recipe": "hot"},
            "bad_data": study | {"model": "uniter-tiny", "recipe": "short", "task": "wrong"},
        },
    }


def test_a_run_that_fails_blocks_its_descendants_only(home: Home, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split in ("train", "test"):
        (data / split).mkdir(parents=True)
        (data / split / "questions.json").write_text('[["what is it?", "a unicorn", 0]]')
    file = home.sweep(sweep(data))
    plan = home.plan(file)
    dense: dict[str, Trial] = {
        cell.curve.study: plan.trials[cell.trial] for cell in plan.cells if cell.level == 0
    }
    diverging, bad_data = dense["diverging"].key, dense["bad_data"].key
    result = home.run("run", file)
    assert result.code == 1, result
    lines = {line.split()[1]: line for line in result.err.splitlines() if line.startswith("failed")}
    assert set(lines) == {f"{diverging[:12]}:", f"{bad_data[:12]}:"}
    assert "lower the learning rate" in lines[f"{diverging[:12]}:"]
    assert all("not retried" in line for line in lines.values())
    assert str(data) in lines[f"{bad_data[:12]}:"]
    assert "2 blocked" in result.err
    assert "Traceback" not in result.out + result.err

    done = {trial.key for trial in plan if trial.model == "vilt-tiny"}
    assert set(home.records()) == done
    with home.store() as store:
        notes = store.failures()
    assert set(notes) == {diverging, bad_data}
    assert {note["attempts"] for note in notes.values()} == {1}, "they would fail again"
    assert all("Traceback" in note["trace"] for note in notes.values())
    with workspace.local_services(home.path, ["s3"]):  # for all of the commands
        watched = home.run("status", file, "--watch")
        assert "2/6 trials, 2 failed, 2 blocked" in watched.out
        assert f"failed {diverging[:12]}" in watched.out
        logs = home.run("logs", diverging[:12])
        assert logs.out.count("=== attempt") == 1
        assert "lower the learning rate" in logs.out
        assert "Traceback" in logs.out
        (trained,) = (
            key for key in done if plan.trials[key].kind == "train" and plan.trials[key].level
        )
        assert "ended after" in home.run("logs", trained[:12]).out
        explained = home.run("explain", file, trained[:12]).out
        assert "committed" in explained
        assert "score" in explained
        explained = home.run("explain", file, bad_data[:12]).out
        assert "given up" in explained
    page = (home.path / "reports" / "failing" / "report.html").read_text()
    assert diverging[:12] in page
