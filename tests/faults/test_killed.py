"""`kill -9` in the middle of a sweep: of the driver, a worker, the S3 server, MLflow.

Whatever dies, a second run finishes the sweep, runs nothing again that was committed, and ends with
the very tickets, weights, scores and curves of a sweep that nobody disturbed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import processes
from cluster.services import Name
from orchestrator.store import paths
from orchestrator.store.tickets import TicketStore
from tests.e2e.harness import Ended, Home, created, ended, gone, results, until
from tests.faults.conftest import sweep

pytestmark = pytest.mark.slow

HITS = 4
"""Trials of 22 that are committed when the blow falls."""
LANE = "ray::ResourceTrainable"
"""How Ray names the processes of our lanes."""

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Running:
    """A sweep under way."""

    home: Home
    driver: psutil.Process
    family: list[psutil.Process]
    """Everything the driver started."""

    def workers(self) -> list[psutil.Process]:
        return [process for process in self.family if _title(process).startswith(LANE)]

    def server(self, name: Name) -> list[psutil.Process]:
        state = json.loads((self.home.path / "services.json").read_text())
        return processes.alive(f"{state['identity']}-{name}")


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kill(victims: list[psutil.Process]) -> None:
    assert victims
    for process in victims:
        process.kill()


def half_done(store: TicketStore) -> set[str]:
    """Trials that have left a checkpoint and no record."""
    return {paths.stem(item.path) for item in store.objects.list(paths.CHECKPOINTS)} - store.keys()


@dataclass(frozen=True, slots=True)
class Disturbed:
    run: Ended
    before: dict[str, str]
    """When each trial was committed that was so at the blow."""
    running: Running


def disturb(home: Home, file: Path, victim: str) -> Disturbed:
    """Run the sweep in `file`, kill the victim once some trials are committed, wait for the end."""
    with home.store() as store:
        run = home.start("run", file)
        until(lambda: len(store.keys()) >= HITS, run)
        before = created(store.records())
        driver = psutil.Process(run.pid)
        running = Running(home, driver, driver.children(recursive=True))
        match victim:
            case "driver":
                until(lambda: bool(half_done(store)), run)
                kill([driver])
            case "worker":
                kill(running.workers()[:1])
            case "s3" | "mlflow":
                kill(running.server(victim))
        return Disturbed(ended(run), before, running)


def finish(home: Home, file: Path, disturbed: Disturbed, undisturbed: Results) -> None:
    again = home.call("run", file)
    assert again.code == 0, again
    records = home.records()
    assert disturbed.before.items() <= created(records).items(), "a committed trial was run again"
    assert results(records) == undisturbed


def test_a_killed_driver(home: Home, undisturbed: Results) -> None:
    """In the middle of a trial that has left a checkpoint: the second run, which starts at once,
    while Ray's orphans may still be there, goes on from it."""
    file = home.sweep(sweep() | {"placement": {"checkpoint_every_s": 0.05}})
    disturbed = disturb(home, file, "driver")
    assert disturbed.run.code == -9
    with home.store() as store:
        assert half_done(store)
    finish(home, file, disturbed, undisturbed)
    servers = disturbed.running.server("mlflow")
    assert not servers, "the second run ends the servers that the first one left"
    assert gone(disturbed.running.family)


def test_a_killed_worker(home: Home, undisturbed: Results) -> None:
    """The run itself gets over it: the unit is tried again in another process."""
    file = home.sweep(sweep() | {"placement": {"tracking": "none"}})
    disturbed = disturb(home, file, "worker")
    assert disturbed.run.code == 0, disturbed.run
    assert "the worker process died" in disturbed.run.err
    assert "Traceback" not in disturbed.run.err
    assert results(home.records()) == undisturbed
    finish(home, file, disturbed, undisturbed)


def test_a_killed_s3_server(home: Home, undisturbed: Results) -> None:
    """The run ends and says how to go on: without its store nothing can be committed."""
    file = home.sweep(sweep() | {"placement": {"tracking": "none"}})
    disturbed = disturb(home, file, "s3")
    assert disturbed.run.code == 1, disturbed.run
    assert "no usable answer" in disturbed.run.err
    assert f"go on with `sweepstakes run {file}`" in disturbed.run.err
    assert "Traceback" not in disturbed.run.out + disturbed.run.err
    assert gone(disturbed.running.family)
    finish(home, file, disturbed, undisturbed)


def test_a_killed_mlflow(home: Home, undisturbed: Results) -> None:
    """Nobody needs it: the run is whole and says that MLflow is not; `sync` catches up."""
    file = home.sweep(sweep())
    disturbed = disturb(home, file, "mlflow")
    assert disturbed.run.code == 0, disturbed.run
    assert "MLflow" in disturbed.run.err
    assert "Traceback" not in disturbed.run.err
    assert results(home.records()) == undisturbed
    synced = home.call("sync", file)
    assert synced.code == 0, synced
    assert f"the {len(undisturbed)} committed trials" in synced.out
    finish(home, file, disturbed, undisturbed)
