from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.plan.graph import DENSE, Cell, Curve, Plan, Trial
from orchestrator.store.record import Record, TicketRef
from orchestrator.tracking import LiveRun, Projector, sync
from orchestrator.tracking.experiment import KEY, PARENT, connect
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
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves processes that nothing uses
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
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
            except OSError:
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.2)
            else:
                return
        pytest.fail("mlflow server did not answer within 90 s")

    def stop(self) -> None:
        """Kill the server and its workers: a clean end waits for our idle connections."""
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
    """One seed: a dense run, IMP to level 2 from theta_0 and theta_60, whose first levels are one
    and the same trial."""
    spec = TrainSpec(
        model=ModelSpec(architecture="uniter", size="tiny"),
        task=TaskSpec(name="easy_vqa", data="0" * 64),
        recipe=Recipe(steps=recipe_steps),
    )
    wanted = [
        (DENSE, 0, 0, 0.0, "dense"),
        *(("imp", 0, k, k / 10, "shared" if k == 1 else f"imp-0-{k}") for k in (1, 2)),
        *(("imp", 60, k, k / 10, "shared" if k == 1 else f"imp-60-{k}") for k in (1, 2)),
    ]
    trials, cells = {}, []
    for source, rewind, level, sparsity, key in wanted:
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
            about={"model": "uniter-tiny", "task": "easy_vqa", "level": trial.level},
            ticket=TicketRef(sha256="ab" * 32, kept=80, total=100, bytes=9)
            if trial.level
            else None,
            scores={"score": 90.0 + trial.level, "prior": 67.0},
            history=tuple(
                {"step": float(k), "loss": 1 / k, "lr": 0.001} for k in range(1, points + 1)
            ),
            costs={"seconds": 3.0, "steps": 4.0},
            created=f"2026-01-02T03:04:{number:02d}Z",
        )
        for number, trial in enumerate(plan)
    }


def content(server: Server, name: str) -> dict[str, Any]:
    """Everything the database holds of an experiment, run ids replaced by the keys of the runs."""
    database = sqlite3.connect(f"file:{server.folder / 'mlflow.db'}?mode=ro", uri=True)
    with contextlib.closing(database):
        runs = database.execute(
            "select run_uuid, status from runs join experiments using (experiment_id)"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'",
            (name,),
        ).fetchall()
        found: dict[str, Any] = {run: {"status": status} for run, status in runs}
        for run in found:
            query = "select key, value from {} where run_uuid = ?"
            found[run]["tags"] = dict(database.execute(query.format("tags"), (run,)))
            found[run]["params"] = dict(database.execute(query.format("params"), (run,)))
            points = "select key, step, timestamp, value from metrics where run_uuid = ?"
            found[run]["metrics"] = sorted(database.execute(points, (run,)))
    keys = {run: held["tags"][KEY] for run, held in found.items()}
    assert len(set(keys.values())) == len(keys), "a key has two runs"
    for held in found.values():
        if PARENT in held["tags"]:
            held["tags"][PARENT] = keys[held["tags"][PARENT]]
    return {keys[run]: held for run, held in found.items()}


def points(run: dict[str, Any], metric: str) -> list[tuple[int, float]]:
    """(step, value) of one metric."""
    return [(step, value) for name, step, _, value in run["metrics"] if name == metric]


def artifacts(server: Server, name: str) -> list[str]:
    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`{KEY}` = 'summary'")
    return sorted(file.path for file in client.list_artifacts(run.info.run_id))


def by_name(found: dict[str, Any], start: str) -> dict[str, Any]:
    (run,) = [run for run in found.values() if run["tags"]["mlflow.runName"].startswith(start)]
    return dict(run)


def test_curves_and_trials(server: Server) -> None:
    plan = make_plan("curves")
    sync(plan, make_records(plan), server.uri)
    found = content(server, "curves")
    parents = [run for key, run in found.items() if key.startswith("curve-")]
    children = {key: run for key, run in found.items() if not key.startswith("curve-")}
    assert len(parents) == 3
    assert set(children) == set(plan.trials)

    (theta_60,) = [run for run in parents if run["params"]["rewind"] == "60"]
    assert points(theta_60, "score") == [(0, 90.0), (10, 91.0), (20, 92.0)]
    assert theta_60["status"] == "FINISHED"

    shared = children["shared-400"]
    assert found[shared["tags"][PARENT]]["params"]["rewind"] == "0"
    assert shared["tags"]["shared_by"] == "2 cells"
    assert shared["params"].items() <= shared["tags"].items()
    wanted = {
        "model": "uniter-tiny", "task": "easy_vqa", "level": "1", "sparsity": "0.200000",
        "rewind": "0", "seed": "0", "source": "imp", "ticket": "ab" * 32, "trial": "shared-400",
    }  # fmt: skip
    assert wanted.items() <= shared["params"].items()
    assert points(shared, "loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert points(shared, "final/score") == [(4, 91.0)]


def test_projecting_twice_changes_nothing(server: Server, tmp_path: Path) -> None:
    plan = make_plan("twice")
    records = make_records(plan)
    (tmp_path / "report.html").write_text("<p>one</p>")
    sync(plan, records, server.uri, tmp_path)
    first = content(server, "twice")
    assert artifacts(server, "twice") == ["report.html"]
    sync(plan, records, server.uri, tmp_path)
    assert content(server, "twice") == first


def test_an_interrupted_write_is_completed_without_doubles(server: Server) -> None:
    plan = make_plan("interrupted")
    records = make_records(plan, points=700)  # 1,402 points: two calls
    sync(plan, records, server.uri)
    whole = content(server, "interrupted")
    run = connect(server.uri, "interrupted").find("dense-400")
    assert run is not None
    MlflowClient(tracking_uri=server.uri).delete_tag(run.id, "sweepstakes.content")
    sync(plan, records, server.uri)
    assert content(server, "interrupted") == whole


def test_a_partial_sweep_grows(server: Server) -> None:
    plan = make_plan("grows")
    records = make_records(plan)
    some = dict(list(records.items())[:2])
    sync(plan, some, server.uri)
    partial = content(server, "grows")
    assert by_name(partial, "imp θ60 s0")["status"] == "RUNNING"
    sync(plan, records, server.uri)
    grown = content(server, "grows")
    assert by_name(grown, "imp θ60 s0")["status"] == "FINISHED"
    sync(make_plan("grows-at-once"), records, server.uri)
    assert grown == content(server, "grows-at-once")


def test_an_edited_sweep_keeps_its_curves_apart(server: Server) -> None:
    old, new = make_plan("edited"), make_plan("edited", recipe_steps=500)
    sync(old, make_records(old), server.uri)
    before = content(server, "edited")
    sync(new, make_records(new), server.uri)
    after = content(server, "edited")
    assert {key: after[key] for key in before} == before
    assert len(after) == 2 * len(before)


def test_new_labels_replace_a_run(server: Server) -> None:
    plan = make_plan("labels")
    records = make_records(plan)
    sync(plan, records, server.uri)
    cells = tuple(
        dataclasses.replace(cell, curve=dataclasses.replace(cell.curve, model="renamed"))
        for cell in plan.cells
    )
    sync(Plan("labels", plan.trials, cells), records, server.uri)
    assert content(server, "labels")["dense-400"]["params"]["model"] == "renamed"


def test_the_projector_ends_where_sync_does(server: Server) -> None:
    plan = make_plan("stream")
    records = make_records(plan)
    projector = Projector(plan, server.uri, {})
    for record in records.values():
        projector.add(record)
    assert projector.close(60)
    sync(make_plan("stream-at-once"), records, server.uri)
    assert content(server, "stream") == content(server, "stream-at-once")


def test_the_projection_takes_over_a_live_run(server: Server) -> None:
    plan = make_plan("live")
    records = make_records(plan)
    live = LiveRun(server.uri, "live", "dense-400", "dense", every_s=0.2)
    live.log(10, {"loss": 1.0 / 10})
    while "dense-400" not in connect(server.uri, "live").runs():
        time.sleep(0.1)
    live.log(20, {"loss": 1.0 / 20})
    live.close(30)
    seen = content(server, "live")
    assert points(seen["dense-400"], "live/loss") == [(10, 0.1), (20, 0.05)]
    assert seen["dense-400"]["status"] == "RUNNING"

    sync(plan, records, server.uri)
    taken = content(server, "live")["dense-400"]
    assert taken["status"] == "FINISHED"
    names = {name for name, *_ in taken["metrics"]}
    assert names == {"live/loss", "loss", "lr", "final/score", "final/prior"}
    assert len(points(taken, "loss")) == 4


def test_the_projector_takes_over_what_appeared_meanwhile(server: Server) -> None:
    plan = make_plan("meanwhile")
    records = make_records(plan)
    projector = Projector(plan, server.uri, {})
    projector.add(records["shared-400"])
    while "shared-400" not in connect(server.uri, "meanwhile").runs():
        time.sleep(0.1)
    live = LiveRun(server.uri, "meanwhile", "dense-400", "dense", every_s=0.1)
    live.log(10, {"loss": 0.1})
    while "dense-400" not in connect(server.uri, "meanwhile").live():
        time.sleep(0.1)
    live.close(30)
    for record in records.values():
        projector.add(record)
    assert projector.close(60)
    taken = content(server, "meanwhile")["dense-400"]  # which also says that it is there once
    assert points(taken, "live/loss") == [(10, 0.1)]
    assert points(taken, "final/score")
    assert connect(server.uri, "meanwhile").live() == {}


def test_a_short_trial_makes_no_live_run(server: Server) -> None:
    live = LiveRun(server.uri, "short", "dense-400", "dense", every_s=60)
    live.log(10, {"loss": 0.1})
    live.close(30)
    assert connect(server.uri, "short").runs() == {}


def test_a_dead_server_stops_nobody() -> None:
    uri = f"http://127.0.0.1:{_free_port()}"
    plan = make_plan("dead")
    started = time.monotonic()
    projector = Projector(plan, uri, {})
    live = LiveRun(uri, "dead", "dense-400", "dense", every_s=0.1)
    for record in make_records(plan).values():
        projector.add(record)
        live.log(1, {"loss": 1.0})
    assert time.monotonic() - started < 5
    assert not projector.close(5)
    live.close(5)
    assert time.monotonic() - started < 30


def test_a_lost_database_and_a_server_that_comes_back(tmp_path: Path) -> None:
    server = Server(tmp_path, _free_port())
    plan = make_plan("lost")
    records = make_records(plan)
    server.start()
    try:
        sync(plan, records, server.uri)
        before = content(server, "lost")
        server.stop()
        for file in tmp_path.glob("mlflow.db*"):
            file.unlink()
        projector = Projector(plan, server.uri, {})
        for record in records.values():
            projector.add(record)
        server.start()
        assert projector.close(60)
        assert content(server, "lost") == before
    finally:
        server.stop()
