from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.errors import InputError
from orchestrator.plan.graph import DENSE, Cell, Curve, Plan, Trial
from orchestrator.store.record import Record, TicketRef
from orchestrator.tracking import LiveRun, Projector, sync
from orchestrator.tracking.experiment import KEY_TAG, PARENT_TAG, open_experiment
from orchestrator.tracking.names import CurveNames
from orchestrator.tracking.server import find_experiment, newest_experiments
from orchestrator.tracking.views import SCORE
from tests.support.paper_report import full_grid
from tests.support.synthetic_sweep import SyntheticSweep, quickstart_sweep
from tests.support.waits import wait_for
from trainables.spec import ModelSpec, Recipe, TaskSpec, TrainSpec


class Server:
    """`mlflow server` on a SQLite file, on 127.0.0.1."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.uri = folder, f"http://127.0.0.1:{port}"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # avoids unused processes
        }
        with (self.folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )
        wait_for(self._answers, self._log_while_running)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=10).close()
        except OSError:
            return False
        return True

    def _log_while_running(self) -> str:
        log = (self.folder / "server.log").read_text()
        assert self._process.poll() is None, log
        return log

    def stop(self) -> None:
        """Kill the server and its workers: a clean shutdown waits for idle connections."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"), _free_port())
    server.start()
    yield server
    server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_plan(name: str, *, recipe_steps: int = 400) -> Plan:
    """One seed: a dense run, and IMP to level 2 from theta_0 and theta_60, whose first levels are
    the same trial."""
    spec = TrainSpec(
        model=ModelSpec(architecture="uniter", size="tiny"),
        task=TaskSpec(name="easy_vqa", data="0" * 64),
        recipe=Recipe(steps=recipe_steps),
    )
    rows = [
        (DENSE, 0, 0, 0.0, "dense"),
        *(("imp", 0, k, k / 10, "shared" if k == 1 else f"imp-0-{k}") for k in (1, 2)),
        *(("imp", 60, k, k / 10, "shared" if k == 1 else f"imp-60-{k}") for k in (1, 2)),
    ]
    trials, cells = {}, []
    for source, rewind, level, sparsity, key in rows:
        trial = f"{key}-{recipe_steps}"
        curve = Curve(
            study="main", model="uniter-tiny", task="easy_vqa", recipe="default",
            schedule="" if source == DENSE else "linear 0.1", rewind=rewind, source=source, seed=0,
        )  # fmt: skip
        trials[trial] = Trial(key=trial, kind="train", spec=spec, level=level)
        cells.append(Cell(curve=curve, level=level, sparsity=sparsity, trial=trial))
    return Plan(name, trials, tuple(cells))


def make_records(plan: Plan, *, points: int = 4) -> dict[str, Record]:
    return {
        trial.key: Record(
            key=trial.key,
            kind="train",
            spec={},
            labels={"model": "uniter-tiny", "task": "easy_vqa", "level": trial.level},
            ticket=TicketRef(sha256="ab" * 32, kept=80, total=100, bytes=9)
            if trial.level
            else None,
            scores={"score": 90.0 + trial.level, "prior": 67.0},
            history=tuple(
                {"step": float(k), "loss": 1 / k, "lr": 0.001} for k in range(1, points + 1)
            ),
            costs={"seconds": 3.0, "steps": 4.0},
            created_at=f"2026-01-02T03:04:{number:02d}Z",
        )
        for number, trial in enumerate(plan)
    }


def experiment_content(server: Server, name: str) -> dict[str, Any]:
    """Return everything the database holds of an experiment, with run ids replaced by run keys."""
    database = sqlite3.connect(f"file:{server.folder / 'mlflow.db'}?mode=ro", uri=True)
    with contextlib.closing(database):
        runs = database.execute(
            "select run_uuid, status from runs join experiments using (experiment_id)"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'",
            (name,),
        ).fetchall()
        contents: dict[str, Any] = {run: {"status": status} for run, status in runs}
        for run, content in contents.items():
            query = "select key, value from {} where run_uuid = ?"
            content["tags"] = dict(database.execute(query.format("tags"), (run,)))
            content["params"] = dict(database.execute(query.format("params"), (run,)))
            metrics = "select key, step, timestamp, value from metrics where run_uuid = ?"
            content["metrics"] = sorted(database.execute(metrics, (run,)))
    keys = {run: content["tags"][KEY_TAG] for run, content in contents.items()}
    assert len(set(keys.values())) == len(keys), "a key has two runs"
    for content in contents.values():
        if PARENT_TAG in content["tags"]:
            content["tags"][PARENT_TAG] = keys[content["tags"][PARENT_TAG]]
    return {keys[run]: content for run, content in contents.items()}


def points(run: dict[str, Any], metric: str) -> list[tuple[int, float]]:
    """Return the (step, value) points of one metric."""
    return [(step, value) for name, step, _, value in run["metrics"] if name == metric]


def summary_run(server: Server, name: str) -> str:
    run = open_experiment(server.uri, name).find_run("summary")
    assert run is not None
    return run.id


def artifacts(server: Server, name: str) -> list[str]:
    client = MlflowClient(tracking_uri=server.uri)
    return sorted(file.path for file in client.list_artifacts(summary_run(server, name)))


def run_named(runs: dict[str, Any], prefix: str) -> dict[str, Any]:
    (run,) = [run for run in runs.values() if run["tags"]["mlflow.runName"].startswith(prefix)]
    return dict(run)


def test_curves_and_trials_are_projected_as_parent_and_child_runs(server: Server) -> None:
    plan = make_plan("curves")
    sync(plan, make_records(plan), server.uri)
    runs = experiment_content(server, "curves")
    parents = [run for run in runs.values() if run["params"]["kind"] == "curve"]
    children = {key: run for key, run in runs.items() if run["params"]["kind"] == "run"}
    names = sorted(run["tags"]["mlflow.runName"] for run in parents)
    assert names == ["IMP θ₀ s0", "IMP θ₆₀ s0", "dense s0", "without image"]
    assert all({name for name, *_ in run["metrics"]} == {SCORE} for run in parents)
    assert not any(points(run, SCORE) for run in children.values())
    assert set(children) == set(plan.trials)

    (theta_60,) = [run for run in parents if run["params"]["rewind"] == "60"]
    assert points(theta_60, SCORE) == [(0, 90.0), (10, 91.0), (20, 92.0)]
    for source, score in (("dense", 90.0), ("prior", 67.0)):
        (line,) = [run for run in parents if run["params"]["source"] == source]
        assert points(line, SCORE) == [(0, score), (10, score), (20, score)]
    assert theta_60["status"] == "FINISHED"

    shared = children["shared-400"]
    assert runs[shared["tags"][PARENT_TAG]]["params"]["rewind"] == "0"
    assert shared["tags"]["shared_by"] == "2 cells"
    assert shared["params"].items() <= shared["tags"].items()
    expected = {
        "model": "uniter-tiny", "task": "easy_vqa", "level": "1", "sparsity": "0.200000",
        "rewind": "0", "seed": "0", "source": "imp", "ticket": "ab" * 32, "trial": "shared-400",
    }  # fmt: skip
    assert expected.items() <= shared["params"].items()
    assert points(shared, "loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert points(shared, "final/score") == [(4, 91.0)]


def test_runs_of_an_earlier_version_are_replaced(server: Server) -> None:
    """Curves were logged as `score`, which MLflow cannot delete from a run."""
    plan = make_plan("earlier")
    sync(plan, make_records(plan), server.uri)
    wanted = experiment_content(server, "earlier")
    experiment = open_experiment(server.uri, "earlier-0")
    for key, run in wanted.items():
        params = {name: value for name, value in run["params"].items() if name != "kind"}
        old = experiment.create_run(key, "old")
        experiment.log(old.id, [("score", 90.0, 10, 0)], params, {"sweepstakes.content": "old"})
    sync(Plan("earlier-0", plan.trials, plan.cells), make_records(plan), server.uri)
    assert experiment_content(server, "earlier-0") == wanted


def test_grouping_by_the_views_params_averages_the_seeds(server: Server) -> None:
    """What a grouped chart draws: MLflow's UI averages the histories of a group's runs by step."""
    sweep = quickstart_sweep()
    sync(sweep.plan(), sweep.records, server.uri)
    experiment = open_experiment(server.uri, sweep.name)
    view = json.loads(experiment.tags["mlflow.sharedViewState.means"])
    grouping = [key["groupByData"] for key in view["groupBy"]["groupByKeys"]]
    drawn: dict[Any, dict[int, list[float]]] = {}
    for run in experiment.client.search_runs([experiment.id], view["searchFilter"]):
        group = tuple(run.data.params[name] for name in grouping)
        for point in experiment.client.get_metric_history(run.info.run_id, SCORE):
            drawn.setdefault(group, {}).setdefault(point.step, []).append(point.value)

    def mean(source: str, rewind: int, level: int) -> float:
        scores = [
            sweep.records[cell.trial].scores["score"]
            for cell in sweep.cells
            if (cell.curve.source, cell.curve.rewind, cell.level) == (source, rewind, level)
        ]
        assert len(scores) == 2
        return sum(scores) / 2

    dense = mean("dense", 0, 0)
    labels = {"imp": "IMP", "random": "random", "random_layerwise": "layer-matched"}
    wanted = {
        (f"{label} {theta}",): [dense, *(mean(source, rewind, level) for level in range(1, 10))]
        for source, label in labels.items()
        for rewind, theta in ((0, "θ₀"), (60, "θ₆₀"))
    }
    wanted |= {("dense",): [dense] * 10, ("without image",): [67.0] * 10}
    assert {
        group: [sum(by_step[step]) / len(by_step[step]) for step in range(0, 100, 10)]
        for group, by_step in drawn.items()
    } == {group: pytest.approx(scores) for group, scores in wanted.items()}
    assert all(set(by_step) == set(range(0, 100, 10)) for by_step in drawn.values())


@pytest.mark.parametrize("sweep", [quickstart_sweep(), full_grid()], ids=["quickstart", "paper"])
def test_the_names_of_curves_differ_in_what_the_ui_shows(sweep: SyntheticSweep) -> None:
    curves = dict.fromkeys(cell.curve for cell in sweep.cells)
    names = CurveNames(curves)
    shown = [names.name(curve)[:20] for curve in curves]
    assert len(set(shown)) == len(shown)
    assert all(f"s{curve.seed}" in names.name(curve) for curve in curves)


def test_experiments_are_found_by_name(server: Server) -> None:
    plan = make_plan("found")
    assert find_experiment(server.uri, "found") == ""
    sync(plan, make_records(plan), server.uri)
    assert find_experiment(server.uri, "found") == open_experiment(server.uri, "found").id
    assert "Default" not in newest_experiments(server.uri)
    assert next(iter(newest_experiments(server.uri))) == "found"


def test_an_address_without_mlflow_is_refused_by_name(moto: str) -> None:
    for address in (f"http://127.0.0.1:{_free_port()}", moto):
        with pytest.raises(InputError, match=re.escape(address)) as refused:
            find_experiment(address, "any")
        assert "placement.tracking" in str(refused.value)


def test_projecting_twice_changes_nothing(server: Server, tmp_path: Path) -> None:
    plan = make_plan("twice")
    records = make_records(plan)
    (tmp_path / "report.html").write_text("<p>one</p>")
    sync(plan, records, server.uri, tmp_path, ["It wins."])
    first = experiment_content(server, "twice")
    assert artifacts(server, "twice") == ["report.html"]
    note = open_experiment(server.uri, "twice").tags["mlflow.note.content"]
    assert "It wins." in note
    assert f"/runs/{summary_run(server, 'twice')}/artifacts/report.html" in note
    sync(plan, records, server.uri, tmp_path, ["It wins."])
    assert experiment_content(server, "twice") == first
    assert open_experiment(server.uri, "twice").tags["mlflow.note.content"] == note


def test_an_interrupted_write_is_completed_without_duplicates(server: Server) -> None:
    plan = make_plan("interrupted")
    records = make_records(plan, points=700)  # 1,402 points: two calls
    sync(plan, records, server.uri)
    complete = experiment_content(server, "interrupted")
    run = open_experiment(server.uri, "interrupted").find_run("dense-400")
    assert run is not None
    MlflowClient(tracking_uri=server.uri).delete_tag(run.id, "sweepstakes.content")
    sync(plan, records, server.uri)
    assert experiment_content(server, "interrupted") == complete


def test_a_partial_sweep_is_completed(server: Server) -> None:
    plan = make_plan("grows")
    records = make_records(plan)
    first_records = dict(list(records.items())[:2])
    sync(plan, first_records, server.uri)
    partial = experiment_content(server, "grows")
    assert run_named(partial, "IMP θ₆₀ s0")["status"] == "RUNNING"
    sync(plan, records, server.uri)
    complete = experiment_content(server, "grows")
    assert run_named(complete, "IMP θ₆₀ s0")["status"] == "FINISHED"
    sync(make_plan("grows-at-once"), records, server.uri)
    assert complete == experiment_content(server, "grows-at-once")


def test_an_edited_sweep_gets_new_curves(server: Server) -> None:
    old, new = make_plan("edited"), make_plan("edited", recipe_steps=500)
    sync(old, make_records(old), server.uri)
    before = experiment_content(server, "edited")
    sync(new, make_records(new), server.uri)
    after = experiment_content(server, "edited")
    assert {key: after[key] for key in before} == before
    assert len(after) == 2 * len(before) - 1, "the score without the image is that of the task"


def test_new_labels_replace_a_run(server: Server) -> None:
    plan = make_plan("labels")
    records = make_records(plan)
    sync(plan, records, server.uri)
    cells = tuple(
        dataclasses.replace(cell, curve=dataclasses.replace(cell.curve, model="renamed"))
        for cell in plan.cells
    )
    sync(Plan("labels", plan.trials, cells), records, server.uri)
    assert experiment_content(server, "labels")["dense-400"]["params"]["model"] == "renamed"


def test_the_projector_gives_the_same_result_as_sync(server: Server) -> None:
    plan = make_plan("stream")
    records = make_records(plan)
    projector = Projector(plan, server.uri, {})
    for record in records.values():
        projector.add(record)
    assert projector.close(60)
    sync(make_plan("stream-at-once"), records, server.uri)
    assert experiment_content(server, "stream") == experiment_content(server, "stream-at-once")


def test_the_projection_takes_over_a_live_run(server: Server) -> None:
    plan = make_plan("live")
    records = make_records(plan)
    live = LiveRun(server.uri, "live", "dense-400", "dense", interval_s=0.2)
    live.log(10, {"loss": 1.0 / 10})
    wait_for(lambda: "dense-400" in open_experiment(server.uri, "live").runs())
    live.log(20, {"loss": 1.0 / 20})
    live.close(30)
    before = experiment_content(server, "live")["dense-400"]
    assert points(before, "live/loss") == [(10, 0.1), (20, 0.05)]
    assert before["status"] == "RUNNING"

    sync(plan, records, server.uri)
    after = experiment_content(server, "live")["dense-400"]
    assert after["status"] == "FINISHED"
    names = {name for name, *_ in after["metrics"]}
    assert names == {"live/loss", "loss", "lr", "final/score", "final/prior"}
    assert len(points(after, "loss")) == 4


def test_the_projector_takes_over_runs_created_since_it_started(server: Server) -> None:
    plan = make_plan("meanwhile")
    records = make_records(plan)
    projector = Projector(plan, server.uri, {})
    projector.add(records["shared-400"])
    wait_for(lambda: "shared-400" in open_experiment(server.uri, "meanwhile").runs())
    live = LiveRun(server.uri, "meanwhile", "dense-400", "dense", interval_s=0.1)
    live.log(10, {"loss": 0.1})
    wait_for(lambda: "dense-400" in open_experiment(server.uri, "meanwhile").live_runs())
    live.close(30)
    for record in records.values():
        projector.add(record)
    assert projector.close(60)
    run = experiment_content(server, "meanwhile")["dense-400"]  # asserts one run per key
    assert points(run, "live/loss") == [(10, 0.1)]
    assert points(run, "final/score")
    assert open_experiment(server.uri, "meanwhile").live_runs() == {}


def test_a_short_trial_creates_no_live_run(server: Server) -> None:
    live = LiveRun(server.uri, "short", "dense-400", "dense", interval_s=60)
    live.log(10, {"loss": 0.1})
    live.close(30)
    assert open_experiment(server.uri, "short").runs() == {}


def test_a_dead_server_does_not_block_a_sweep() -> None:
    uri = f"http://127.0.0.1:{_free_port()}"
    plan = make_plan("dead")
    projector = Projector(plan, uri, {})
    live = LiveRun(uri, "dead", "dense-400", "dense", interval_s=0.1)
    for record in make_records(plan).values():
        projector.add(record)
        live.log(1, {"loss": 1.0})
    assert not projector.close(5)
    live.close(5)


def test_a_lost_database_is_restored_once_the_server_is_back(tmp_path: Path) -> None:
    server = Server(tmp_path, _free_port())
    plan = make_plan("lost")
    records = make_records(plan)
    server.start()
    try:
        sync(plan, records, server.uri)
        before = experiment_content(server, "lost")
        server.stop()
        for file in tmp_path.glob("mlflow.db*"):
            file.unlink()
        projector = Projector(plan, server.uri, {})
        for record in records.values():
            projector.add(record)
        server.start()
        assert projector.close(60)
        assert experiment_content(server, "lost") == before
    finally:
        server.stop()
