"""`kill -9` in the middle of a sweep on this machine's own servers: of the driver, of MLflow.

A second run finishes the sweep, runs nothing again that was committed, and ends with the very
tickets, weights, scores and curves of a sweep that nobody disturbed. (`test_kinds` kills the rest.)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from orchestrator.store import paths
from orchestrator.store.tickets import TicketStore
from tests.support.harness import Ended, Home, created, ended, gone, results, until
from tests.support.lab import LONG, server

pytestmark = pytest.mark.slow

HITS = 4
"""Trials of 22 that are committed when the blow falls."""

Results = dict[str, dict[str, Any]]


def half_done(store: TicketStore) -> set[str]:
    """Trials that have left a checkpoint and no record."""
    return {paths.stem(item.path) for item in store.objects.list(paths.CHECKPOINTS)} - store.keys()


@dataclass(frozen=True, slots=True)
class Disturbed:
    run: Ended
    before: dict[str, str]
    """When each trial was committed that was so at the blow."""
    family: list[psutil.Process]
    """Everything the driver had started."""


def disturb(home: Home, file: Path, victim: Literal["driver", "mlflow"]) -> Disturbed:
    """Run the sweep in `file`, kill the victim once some trials are committed, wait for the end."""
    with home.store() as store:
        run = home.start("run", file)
        until(lambda: len(store.keys()) >= HITS, run)
        before = created(store.records())
        driver = psutil.Process(run.pid)
        family = driver.children(recursive=True)
        if victim == "driver":
            until(lambda: bool(half_done(store)), run)
            driver.kill()
        else:
            for process in server(home.path, "mlflow"):
                process.kill()
        return Disturbed(ended(run), before, family)


def finish(home: Home, file: Path, disturbed: Disturbed, undisturbed: Results) -> None:
    again = home.call("run", file)
    assert again.code == 0, again
    records = home.records()
    assert disturbed.before.items() <= created(records).items(), "a committed trial was run again"
    assert results(records) == undisturbed


def test_a_killed_driver(home: Home, undisturbed: Results) -> None:
    """In the middle of a trial that has left a checkpoint: the second run, which starts at once,
    while Ray's orphans may still be there, goes on from it."""
    file = home.sweep(LONG | {"placement": {"checkpoint_every_s": 0.05}})
    disturbed = disturb(home, file, "driver")
    assert disturbed.run.code == -9
    finish(home, file, disturbed, undisturbed)
    assert not server(home.path, "mlflow"), "the second run ends the servers that the first left"
    assert gone(disturbed.family)


def test_a_killed_mlflow(home: Home, undisturbed: Results) -> None:
    """Nobody needs it: the run is whole and says that MLflow is not; `sync` catches up."""
    file = home.sweep(LONG)
    disturbed = disturb(home, file, "mlflow")
    assert disturbed.run.code == 0, disturbed.run
    assert "MLflow" in disturbed.run.err
    assert "Traceback" not in disturbed.run.err
    assert results(home.records()) == undisturbed
    synced = home.call("sync", file)
    assert synced.code == 0, synced
    assert f"the {len(undisturbed)} committed trials" in synced.out
    finish(home, file, disturbed, undisturbed)
