"""Parts from outside the package through whole sweeps.

One is a model with convolutions and BatchNorm under SGD, from an installed package; the other a
kind of ticket from a file of the user's own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.api import workspace
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.store.record import Record
from tests.support import plugins, toy_model
from tests.support.harness import (
    MINIMAL_PLACEMENT,
    Home,
    commit_times,
    wait_for_exit,
    wait_until,
)
from tests.support.paths import ROOT
from trainables.spec import TrainSpec
from trainables.user_modules import uninstall

pytestmark = pytest.mark.slow

SUPPORT = ROOT / "tests/support"
ENTRY_POINTS = {
    "sweepstakes.models.toy_net": "toy_textures:MODEL",
    "sweepstakes.tasks.textures": "toy_textures:TASK",
}


def package(folder: Path) -> Path:
    """Install `tests/support/toy_model.py` as a package with entry points; return its folder."""
    text = (SUPPORT / "toy_model.py").read_text().replace('"toy_model"', '"toy_net"')
    plugins.write_package(folder, "toy_textures", {"__init__.py": text}, ENTRY_POINTS)
    return folder


def convolutions(data: Path) -> dict[str, Any]:
    """IMP of 4-D kernels under SGD with a multi-step schedule, from theta_0 and theta_4, with a
    random and a shuffled control."""
    return {
        "name": "convolutions",
        "models": {"net": {"architecture": "toy_net", "size": "tiny"}},
        "tasks": {"textures": {"task": "textures", "data": str(data)}},
        "recipes": {
            "sgd": {
                "optimizer": "sgd",
                "nesterov": True,
                "weight_decay": 5e-4,
                "lr": 0.05,
                "decay": "multi_step",
                "milestones": [30, 50],
                "lr_scales": {"stem": 0.5},
                "steps": 60,
            }
        },
        "studies": {
            "main": {
                "model": "net",
                "task": "textures",
                "recipe": "sgd",
                "rewind": [0, 4],
                "schedule": {"kind": "geometric", "rate": 0.4, "levels": 2},
                "controls": ["random", "shuffle_within"],
            }
        },
        "placement": MINIMAL_PLACEMENT,
    }


def channels(kind: Path) -> dict[str, Any]:
    """Whole channels of a transformer's matrices, pruned level by level, beside random ones."""
    return {
        "name": "channels",
        "pruners": {"norms": {"module": str(kind)}},
        "recipes": {"short": {"steps": 8, "batch_size": 16, "eval_examples": 128}},
        "studies": {
            "main": {
                "model": "uniter-tiny",
                "task": "easy_vqa",
                "recipe": "short",
                "pruner": "norms",
                "schedule": {"rate": 0.3, "levels": 2},
                "controls": ["random"],
            }
        },
        "placement": MINIMAL_PLACEMENT,
    }


def cells_table(home: Home, sweep: str) -> pd.DataFrame:
    return pd.read_csv(home.path / "reports" / sweep / "tables/cells.csv")


def of_source(plan: Plan, records: dict[str, Record], source: str) -> list[Record]:
    return [records[cell.trial] for cell in plan.cells if cell.curve.source == source]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    uninstall()


def test_a_model_from_a_package_runs_under_sgd_and_resumes(tmp_path: Path) -> None:
    installed = package(tmp_path / "site")
    home = Home(tmp_path / "home", {"PYTHONPATH": f"{ROOT}:{installed}"})
    sweep = home.sweep(convolutions(toy_model.write_data(tmp_path / "data")))
    with workspace.local_services(home.path, ["s3"]), home.store() as store:
        run = home.start("run", sweep)
        wait_until(lambda: len(store.keys()) >= 4, run)
        os.killpg(run.pid, signal.SIGINT)
        assert wait_for_exit(run).code == 130
        before = store.records()
        again = home.run("run", sweep)
        assert again.code == 0, again
        records = store.records()
        # By magnitude, the default: a random ticket has no weights to export.
        made = [key for key, record in records.items() if record.kind == "prune"]
        ticket = next(key for key in made if "method" not in records[key].spec)
        export = ("--sweep", sweep, "export", ticket, "--format", "prune")
        exported = home.run("tickets", *export, "--to", tmp_path / "exported")
    assert exported.code == 0, exported
    assert commit_times(before).items() <= commit_times(records).items()
    with plugins.installed_packages(installed):
        plan = home.plan(sweep)
    assert set(records) == set(plan.trials)
    for record in records.values():
        if record.kind == "train":
            assert record.checks["pruned_nonzero"] == 0
    (dense,) = of_source(plan, records, DENSE)
    assert dense.scores["score"] > 90
    assert all(record.scores["score"] > 60 for record in of_source(plan, records, "imp"))
    for trial in plan:
        if isinstance(trial.spec, TrainSpec):
            assert len(trial.spec.model.source) == len(trial.spec.task.source) == 64
    page = (home.path / "reports/convolutions/report.html").read_text()
    assert "textures" in page
    report = cells_table(home, "convolutions")
    assert {"imp", "random", "shuffle_within"} <= set(report["source"])


def test_a_kind_of_ticket_from_a_file_runs_through_a_whole_sweep(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    file = tmp_path / "toy_kind.py"
    file.write_text((SUPPORT / "toy_kind.py").read_text())
    shallow = channels(file)
    shallow["studies"]["main"]["schedule"]["levels"] = 1
    with workspace.local_services(home.path, ["s3"]), home.store() as store:
        first = home.run("run", home.sweep(shallow))
        assert first.code == 0, first
        before = store.records()
        sweep = home.sweep(channels(file))
        deeper = home.run("run", sweep)
        assert deeper.code == 0, deeper
        records = store.records()
        plan = home.plan(sweep)
        assert commit_times(before).items() <= commit_times(records).items()
        assert set(records) == set(plan.trials)
        tickets = {key: records[key].ticket for key in records if records[key].kind == "prune"}
        kinds = {store.ticket(ref.sha256).kind for ref in tickets.values() if ref is not None}
        shown = home.run("tickets", "show", next(iter(tickets))[:12])

    assert kinds == {"toy_kind"}
    assert "toy_kind" in shown.out, shown
    for cell in plan.cells:
        if cell.ticket:
            ref = tickets[cell.ticket]
            assert ref is not None
            assert 1 - ref.kept / ref.total == pytest.approx(cell.sparsity, abs=0.01)
            assert records[cell.trial].checks["pruned_nonzero"] == 0
    assert {"imp", "random"} <= set(cells_table(home, "channels")["source"])

    # Another version of the file is another method: what it made before is not its result.
    file.write_text(file.read_text() + "\n# changed\n")
    changed = home.plan(sweep)
    (dense,) = changed.trials.keys() & records.keys()
    assert changed.trials[dense].kind == "train"
