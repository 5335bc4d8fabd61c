"""Ctrl-C: committed trials are kept, and the run can resume. SIGTERM, which stops a job, is tested
in `test_jobs` and in `tests/faults`."""

from __future__ import annotations

import os
import signal

import psutil

from cluster.local import servers as local
from tests.support.finished import tiny_sweep
from tests.support.harness import (
    MINIMAL_PLACEMENT,
    Home,
    all_exit,
    commit_times,
    wait_for_exit,
    wait_until,
)


def ctrl_c(driver: int) -> None:
    """Send SIGINT as a terminal does: to all foreground processes, including those of Ray."""
    os.killpg(driver, signal.SIGINT)


def test_an_interrupted_sweep_loses_nothing_and_resumes(home: Home) -> None:
    content = tiny_sweep() | {"placement": MINIMAL_PLACEMENT}
    content["recipes"]["four"]["steps"] = 60  # long enough to be interrupted
    sweep = home.sweep(content)
    with home.store() as store:
        run = home.start("run", sweep)
        wait_until(lambda: len(store.keys()) >= 3, run)
        processes = psutil.Process(run.pid).children(recursive=True)
        before = commit_times(store.records())
        ctrl_c(run.pid)
        interrupted = wait_for_exit(run)
    assert interrupted.code == 130, interrupted
    assert f"resume with `sweepstakes run {sweep}`" in interrupted.err
    assert "Traceback" not in interrupted.out + interrupted.err
    assert all_exit(processes)
    assert local.stop_services(home.path) == (), "the run left servers behind"

    between = commit_times(home.records())
    assert before.items() <= between.items()
    assert len(between) < len(home.plan(sweep))
    local.stop_services(home.path)
    again = home.run("run", sweep)
    assert again.code == 0, again
    after = commit_times(home.records())
    assert between.items() <= after.items()
    assert set(after) == set(home.plan(sweep).trials)
