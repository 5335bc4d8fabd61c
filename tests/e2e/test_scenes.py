"""The paper's complete study at toy size: every kind of study, real files, two steps per run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from tests.support.harness import MINIMAL_PLACEMENT, Home
from tests.support.paths import ROOT
from trainables.data import scenes
from trainables.spec import TrainSpec

SCENES = ROOT / "configs" / "scenes.yaml"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    scenes.write_scenes(folder, images=60, seed=0, difficulty=0.5)
    return folder


def toy(world: Path) -> dict[str, Any]:
    """`configs/scenes.yaml` with 2 steps per run, on the data in `world`."""
    content: dict[str, Any] = yaml.safe_load(SCENES.read_text())
    for task in content["tasks"].values():
        task["data"] = str(world)
    for recipe in content["recipes"].values():
        recipe |= {"steps": 2, "batch_size": 8, "eval_examples": 16}
    content["studies"]["rewinding"]["rewind"] = [1]
    return content | {"placement": MINIMAL_PLACEMENT}


def check(plan: Plan, records: dict[str, Record]) -> None:
    """Every trial is committed, every score is a percentage, and every ticket was applied."""
    assert set(records) == set(plan.trials)
    for cell in plan.cells:
        record = records[cell.trial]
        assert 0 <= record.scores["score"] <= 100
        assert record.checks["pruned_nonzero"] == 0
        if cell.ticket:
            assert record.ticket == records[cell.ticket].ticket


def check_rewinding(plan: Plan, records: dict[str, Record]) -> None:
    """Every run under a ticket started from the weights of its dense run, with the task head."""
    thetas = {
        start_of(trial.spec): records[trial.key].checks["theta_sha256"]
        for trial in plan.training_runs()
        if isinstance(trial.spec, TrainSpec) and not trial.spec.ticket
    }
    compared = 0
    for trial in plan.training_runs():
        spec = trial.spec
        assert isinstance(spec, TrainSpec)
        if spec.ticket and start_of(spec) in thetas:
            assert records[trial.key].checks["theta_sha256"] == thetas[start_of(spec)]
            compared += 1
    assert compared


def start_of(spec: TrainSpec) -> tuple[object, ...]:
    return spec.model, spec.task, spec.start, spec.head, spec.seeds.head


@pytest.mark.slow
def test_the_complete_study_runs_to_its_report(home: Home, world: Path) -> None:
    sweep = home.sweep(toy(world) | {"placement": {"tracking": "none", "slots": 2}})
    result = home.run("run", sweep)
    assert result.code == 0, result
    plan, records = home.plan(sweep), home.records()
    check(plan, records)
    check_rewinding(plan, records)
    cells = pd.read_csv(home.path / "reports" / "scenes" / "tables" / "cells.csv")
    assert set(cells.state) == {"done"}
    assert {"controls", "universal", "transfer", "adversarial", "overlaps"} <= {
        table.stem for table in (home.path / "reports" / "scenes" / "tables").iterdir()
    }
