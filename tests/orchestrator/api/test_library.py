"""The library: what `orchestrator` exports, and its functions on a sweep whose trials are done."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

import orchestrator
from orchestrator import (
    ConfigError,
    IncompleteRun,
    InputError,
    RunError,
    Schedule,
    StoreConfig,
    Study,
    Sweep,
    TicketStore,
    plan,
    report,
    run,
    status,
)
from orchestrator.api import session, workspace
from orchestrator.api.workspace import local_services
from orchestrator.environment import set_variables
from orchestrator.errors import StoreError
from orchestrator.plan.keys import to_json
from orchestrator.store import catalog
from orchestrator.store import tickets as stores
from orchestrator.store.record import Record
from orchestrator.store.s3 import StoreAddress
from orchestrator.store.ticket import Ticket
from tests.support.paths import ROOT
from tests.support.results import run_result
from tests.support.sweeps import STUDY, sweep_document, write_sweep
from trainables.spec import PruneSpec

NAMES = (
    *("Sweep", "Study", "Schedule", "ModelConfig", "PretrainedBy", "TaskConfig", "PrunerConfig"),
    *("RecipeChanges", "Win", "Placement", "StoreConfig"),
    *("plan", "run", "status", "report", "TicketStore", "apply", "prune"),
    *("SweepstakesError", "InputError", "ConfigError", "StoreError", "RunError", "IncompleteRun"),
)
TRIAL_COLUMNS = (
    *("key", "kind", "model", "task", "level", "state", "sparsity", "score", "steps", "seconds"),
    *("error", "produced_by", "parents"),
)


def test_the_library_has_these_names() -> None:
    assert sorted(orchestrator.__all__) == sorted(NAMES)
    for name in NAMES:
        assert callable(getattr(orchestrator, name))
    with pytest.raises(AttributeError, match="no attribute 'pln'"):
        _ = orchestrator.pln  # type: ignore[attr-defined]


def test_a_package_does_not_replace_the_function_of_its_name() -> None:
    for module in ("orchestrator.plan.graph", "orchestrator.report.write"):
        importlib.import_module(module)
    assert orchestrator.plan is plan
    assert orchestrator.report is report


def test_the_packages_are_typed() -> None:
    for package in ("orchestrator", "trainables", "cluster"):
        assert (files(package) / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["*"]


def test_a_sweep_is_a_file_a_dict_or_objects(tmp_path: Path) -> None:
    content = sweep_document()
    schedule = Schedule(rate=0.2, levels=4)
    study = Study(model="uniter-tiny", task="easy_vqa", recipe="short", schedule=schedule)
    recipes: dict[str, Any] = {"short": {"steps": 10, "batch_size": 8}}
    sweep = Sweep(name="test", recipes=recipes, studies={"main": study})
    assert sweep == Sweep.from_dict(content) == Sweep.from_file(write_sweep(tmp_path, content))
    assert sweep == Sweep.from_dict({**content, "studies": {"main": study}})


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (STUDY | {"sede": [0]}, "studies.main.sede is not a known key; did you mean `seed`?"),
        (STUDY | {"seed": "one"}, "studies.main.seed = 'one' is not allowed"),
        (STUDY | {"schedule": {"levels": -1}}, "studies.main.schedule.levels = -1 is not allowed"),
        ({"task": "easy_vqa"}, "studies.main.model is missing; add it"),
    ],
)
def test_an_invalid_sweep_has_one_message_in_every_form(
    tmp_path: Path, study: dict[str, Any], message: str
) -> None:
    content = {"name": "test", "studies": {"main": study}}
    path = write_sweep(tmp_path, content)
    with pytest.raises(ConfigError) as from_file:
        Sweep.from_file(path)
    with pytest.raises(ConfigError) as from_dict:
        Sweep.from_dict(content)
    with pytest.raises(ConfigError) as from_objects:
        Sweep(**content)  # type: ignore[arg-type]
    assert str(from_dict.value) == str(from_objects.value)
    assert str(from_file.value) == f"{path}: {from_dict.value}"
    assert message in str(from_dict.value)
    assert "\n" not in str(from_dict.value)


def test_an_invalid_object_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^rate = 2.0 is not allowed; use less than 1"):
        Schedule(rate=2.0)
    with pytest.raises(ConfigError, match=r"^holds no keys; a sweep needs at least `name`"):
        Sweep.from_dict(["name"])  # type: ignore[arg-type]


def test_what_only_planning_finds_begins_with_the_name_or_the_path(tmp_path: Path) -> None:
    content = sweep_document(model="lxmret-tiny")
    with pytest.raises(ConfigError, match=r"^test: .*lxmret-tiny"):
        plan(content, home=tmp_path)
    path = write_sweep(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        plan(str(path), home=tmp_path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_plan_prints_nothing_and_starts_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    preview = plan(sweep_document(), home=tmp_path)
    totals = preview.totals
    assert (totals.cells, totals.training_runs, totals.new_runs) == (9, 9, 9)
    assert preview.estimate is None
    trials, cells = preview.trials(), preview.cells()
    assert tuple(trials.columns) == TRIAL_COLUMNS
    assert list(trials.kind).count("train") == 9
    assert set(trials.state) == {"missing"}
    assert trials[trials.kind == "prune"].sparsity.between(0.2, 0.8).all()
    assert set(cells.trial) == set(trials[trials.kind == "train"].key)
    position = {key: row for row, key in enumerate(trials.key)}
    assert all(position[p] < row for row, ps in enumerate(trials.parents) for p in ps)
    assert status(sweep_document(), home=tmp_path).counts() == {"missing": 9}
    assert report(sweep_document(), home=tmp_path).scores().score.isna().all()
    assert {entry.name for entry in tmp_path.iterdir()} <= {"fingerprints.json"}
    assert capfd.readouterr() == ("", "")


def test_variables_are_set_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "before")
    monkeypatch.delenv("ABSENT", raising=False)
    with set_variables({"KEPT": "within", "ABSENT": "within"}):
        assert (os.environ["KEPT"], os.environ["ABSENT"]) == ("within", "within")
    assert os.environ["KEPT"] == "before"
    assert "ABSENT" not in os.environ


@pytest.fixture
def sweep(address: StoreAddress) -> dict[str, Any]:
    """A sweep of one chain and a rewind point, on the store of the test."""
    store = {"url": address.url, "endpoint": address.endpoint}
    content = sweep_document(schedule={"rate": 0.5, "levels": 1}, rewind=2, controls=[])
    return content | {"placement": {"store": store, "tracking": "none"}}


@pytest.fixture
def records(sweep: dict[str, Any], store: stores.TrialStore, tmp_path: Path) -> dict[str, Record]:
    """Records of all trials of the sweep, committed; training runs took 3 s."""
    planned = workspace.plan_sweep(sweep, tmp_path)
    kept = np.arange(128).reshape(8, 16) < 64
    ticket = store.put_ticket(
        Ticket.from_arrays(
            {"encoder.0.weight": kept}, architecture="uniter", model_sha256="0" * 64, pool="encoder"
        )
    )
    for trial in planned.plan:
        record = Record(
            key=trial.key,
            kind=trial.kind,
            spec=to_json(trial.spec),
            labels={"model": trial.model, "task": trial.task, "level": trial.level},
            parents=trial.parents,
            created_at="2026-01-02T03:04:05Z",
        )
        if trial.kind == "train":
            costs = {"seconds": 3.0, "steps": 10.0}
            record = replace(record, scores={"score": 90.0 - trial.level}, costs=costs)
        if isinstance(trial.spec, PruneSpec) or trial.level:
            record = replace(record, ticket=ticket)
        if trial.kind == "rewind":
            weights = save({"backbone.encoder.0.weight": torch.ones(2, 2)})
            record = replace(record, weights=store.put_weights(trial.parents[0], 2, weights))
        store.commit(record)
    return store.records()


def test_a_sweep_that_is_done_runs_nothing_and_gives_frames(
    sweep: dict[str, Any],
    records: dict[str, Record],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    result = run(sweep, home=home)
    assert result.complete
    assert (result.done, result.failed, result.blocked) == (0, 0, 0)
    assert result.report is not None
    assert result.report.files is not None
    assert result.report.files.page == home / "reports" / "test" / "report.html"
    assert "sweepstakes run SWEEP" in result.report.files.page.read_text()

    assert status(sweep, home=home).counts() == {"done": 2}
    preview = plan(sweep, home=home)
    assert preview.totals.new_runs == 0
    found = report(sweep, home=tmp_path / "other")
    scores, trials = found.scores(), found.trials()
    assert list(scores.score) == [90.0, 89.0]
    assert list(scores.sparsity) == [0.0, 0.5]
    assert dict(zip(trials.key, trials.state, strict=True)) == dict.fromkeys(records, "done")
    assert trials.steps.sum() == 20
    assert list(found.verdicts().verdict) == ["undecided"]  # one seed
    assert "no verdict yet" in str(found)
    assert not (tmp_path / "other").exists() or not [*(tmp_path / "other").rglob("*.html")]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How the outcome of the next run, which is not run, differs from a complete one."""
    changes: dict[str, Any] = {}
    monkeypatch.setattr(session, "run_sweep", lambda *_, **__: run_result(**changes))
    return changes


def test_an_incomplete_run_is_an_error_unless_the_caller_checks(
    sweep: dict[str, Any], outcome: dict[str, Any], tmp_path: Path
) -> None:
    outcome |= {"failed": 1, "blocked": 2, "failures": {"ab": "ValueError: x"}}
    with pytest.raises(RunError, match="ab failed: ValueError: x") as error:
        run(sweep, home=tmp_path)
    assert isinstance(error.value, IncompleteRun)
    assert error.value.result.failed == 1
    assert not run(sweep, home=tmp_path, check=False).complete


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"failed": 1, "failures": {"ab": "ValueError: x"}}, "ab failed: ValueError: x; run the"),
        ({"budget_spent": True}, "the budget is spent; run the sweep again with a higher one"),
        ({"outage": "the store is gone"}, "the store is gone; run the sweep again"),
    ],
)
def test_the_cause_of_an_incomplete_run_is_one_line(changes: dict[str, Any], message: str) -> None:
    result = run_result(**changes)
    assert not result.complete
    assert message in str(IncompleteRun(result))
    assert "\n" not in str(IncompleteRun(result))


def test_an_interrupted_run_interrupts_its_caller(
    sweep: dict[str, Any], outcome: dict[str, Any], tmp_path: Path
) -> None:
    outcome["interrupted"] = True
    with pytest.raises(KeyboardInterrupt):
        run(sweep, home=tmp_path, check=False)


def test_a_budget_needs_prices(sweep: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^test: placement.cluster is missing"):
        run(sweep, home=tmp_path, budget=5.0)
    for amount in (math.nan, math.inf, 0.0, -5.0):
        with pytest.raises(InputError, match=r"^budget = .*; give a finite amount above 0"):
            run(sweep, home=tmp_path, budget=amount)


def test_a_store_is_read_as_frames_masks_and_weights(
    sweep: dict[str, Any], records: dict[str, Record], address: StoreAddress
) -> None:
    source = StoreConfig(url=address.url, endpoint=address.endpoint)
    by_kind = {record.kind: record.key for record in records.values()}
    with TicketStore.open(source) as store:
        (row,) = store.tickets().to_dict("records")
        assert (row["key"], row["sparsity"], row["nnz"]) == (by_kind["prune"], 0.5, 64)
        ticket = store.ticket(by_kind["prune"][:10])
        masks = ticket.masks()
        assert torch.equal(masks["encoder.0.weight"], torch.arange(128).reshape(8, 16) < 64)
        assert ticket.sparsity == 0.5
        assert store.ticket(row["hash"][:10]).key == ticket.key
        assert list(ticket.layers().sparsity) == [0.5]
        weights = store.rewind_point(by_kind["rewind"][:10])
        assert torch.equal(weights["backbone.encoder.0.weight"], torch.ones(2, 2))
        assert store.records() == records
        assert store.record(by_kind["rewind"][:10]).key == by_kind["rewind"]
        for find in (store.ticket, store.record, store.rewind_point, store.log):
            with pytest.raises(InputError, match="does not match"):
                find("f" * 64)
        with pytest.raises(InputError, match="give more digits"):
            store.record("")
    with TicketStore.open(sweep) as same:
        assert len(same.tickets()) == 1


def test_reading_a_store_writes_nothing(
    records: dict[str, Record], store: stores.TrialStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MIN_SEGMENT_RECORDS", 1)
    before = [item.path for item in store.objects.list("")]
    address = store.objects.address  # type: ignore[attr-defined]
    with TicketStore.open(StoreConfig(url=address.url, endpoint=address.endpoint)) as read:
        assert read.records() == records
        with pytest.raises(StoreError, match="for reading only"):
            read._store.put_log("0" * 64, "text")
    assert [item.path for item in store.objects.list("")] == before


def test_open_stores_leave_the_environment_alone(tmp_path: Path) -> None:
    """Each has its own credentials, in whatever order they are closed."""
    first_home, second_home = tmp_path / "first", tmp_path / "second"
    before = dict(os.environ)
    with local_services(first_home, ["s3"]), local_services(second_home, ["s3"]):
        first, second = TicketStore.open(home=first_home), TicketStore.open(home=second_home)
        assert dict(os.environ) == before
        assert first.tickets().empty
        first.close()
        assert second.tickets().empty
        second.close()
    assert dict(os.environ) == before


def test_a_local_store_is_not_created_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="no sweep has run here"):
        TicketStore.open(home=tmp_path / "home")
    monkeypatch.setenv("SWEEPSTAKES_HOME", str(tmp_path / "other"))
    with pytest.raises(InputError, match=f"^{tmp_path}/other: no sweep has run"):
        TicketStore.open()
    assert not [*tmp_path.iterdir()]


WITHOUT_RAY = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "torch", "deepspeed", "mlflow"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from orchestrator import TicketStore, plan, report, status
content, home = json.loads(sys.argv[1])
with TicketStore.open(content) as store:
    tickets = store.tickets()
    layers = store.ticket(tickets.key[0]).layers()
done = (status(content, home=home).counts(), len(report(content, home=home).verdicts()))
print(json.dumps([list(layers.kept), plan(content, home=home).totals.new_runs, *done]))
"""


def test_everything_but_a_run_works_without_ray_and_torch(
    sweep: dict[str, Any], records: dict[str, Record], tmp_path: Path
) -> None:
    arguments = json.dumps([sweep, str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [[64], 0, {"done": 2}, 1]
