"""`kill -9` of the driver or of MLflow during a sweep on this machine's own servers.

A second run finishes the sweep, does not repeat committed trials, and ends with exactly the
tickets, weights, scores and curves of an undisturbed sweep. (`test_kinds` kills other processes.)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pytest

from orchestrator.store import paths
from orchestrator.store.tickets import TrialStore
from tests.support.harness import (
    CommandResult,
    Home,
    all_exit,
    commit_times,
    results,
    wait_for_exit,
    wait_until,
)
from tests.support.lab import LONG_SWEEP, TrialResults, server_processes

pytestmark = pytest.mark.slow

KILL_AFTER = 4
"""Number of committed trials, of 22, when the process is killed."""


def unfinished_trials(store: TrialStore) -> set[str]:
    """Return the trials that have a checkpoint and no record."""
    return {paths.stem(item.path) for item in store.objects.list(paths.CHECKPOINTS)} - store.keys()


@dataclass(frozen=True, slots=True)
class Disturbed:
    run: CommandResult
    before: dict[str, str]
    """Commit times of the trials that were committed before the kill."""
    processes: list[psutil.Process]
    """All processes that the driver had started."""


def disturb(home: Home, file: Path, victim: Literal["driver", "mlflow"]) -> Disturbed:
    """Run the sweep in `file`, kill `victim` once some trials are committed, and wait for the
    end."""
    with home.store() as store:
        run = home.start("run", file)
        wait_until(lambda: len(store.keys()) >= KILL_AFTER, run)
        before = commit_times(store.records())
        driver = psutil.Process(run.pid)
        processes = driver.children(recursive=True)
        if victim == "driver":
            wait_until(lambda: bool(unfinished_trials(store)), run)
            driver.kill()
        else:
            for process in server_processes(home.path, "mlflow"):
                process.kill()
        return Disturbed(wait_for_exit(run), before, processes)


def finish(home: Home, file: Path, disturbed: Disturbed, baseline: TrialResults) -> None:
    rerun = home.run("run", file)
    assert rerun.code == 0, rerun
    records = home.records()
    assert disturbed.before.items() <= commit_times(records).items(), (
        "a committed trial was repeated"
    )
    assert results(records) == baseline


def test_a_killed_driver_loses_no_committed_trial(home: Home, baseline: TrialResults) -> None:
    """Kill the driver during a trial with a checkpoint. The second run starts at once, while
    orphaned Ray processes may still be running, and resumes the trial."""
    file = home.sweep(LONG_SWEEP | {"placement": {"checkpoint_every_s": 0.05}})
    disturbed = disturb(home, file, "driver")
    assert disturbed.run.code == -9
    finish(home, file, disturbed, baseline)
    assert not server_processes(home.path, "mlflow"), (
        "the second run did not stop the servers of the first"
    )
    assert all_exit(disturbed.processes)


def test_a_killed_mlflow_does_not_stop_the_run(home: Home, baseline: TrialResults) -> None:
    """The run completes and reports that MLflow is incomplete; `sync` completes it."""
    file = home.sweep(LONG_SWEEP)
    disturbed = disturb(home, file, "mlflow")
    assert disturbed.run.code == 0, disturbed.run
    assert "MLflow" in disturbed.run.err
    assert "Traceback" not in disturbed.run.err
    assert results(home.records()) == baseline
    synced = home.run("sync", file)
    assert synced.code == 0, synced
    assert f"the {len(baseline)} committed trials" in synced.out
    finish(home, file, disturbed, baseline)
