"""Ctrl-C, and the signal by which a job is stopped: what is committed stays, the rest can go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from cluster.local import servers as local
from tests.support.finished import tiny
from tests.support.harness import FRUGAL, Home, created, ended, gone, until

Send = Callable[[int], None]


def ctrl_c(driver: int) -> None:
    """As a terminal does: to everything in the foreground, Ray's own processes among it."""
    os.killpg(driver, signal.SIGINT)


def stop_job(driver: int) -> None:
    os.kill(driver, signal.SIGTERM)


@pytest.mark.parametrize("send", [ctrl_c, pytest.param(stop_job, marks=pytest.mark.slow)])
def test_an_interrupted_sweep_loses_nothing_and_goes_on(home: Home, send: Send) -> None:
    content = tiny() | {"placement": FRUGAL}
    content["recipes"]["four"]["steps"] = 60  # the rest outlasts the signal's way
    sweep = home.sweep(content)
    with home.store() as store:
        run = home.start("run", sweep)
        until(lambda: len(store.keys()) >= 3, run)
        family = psutil.Process(run.pid).children(recursive=True)
        before = created(store.records())
        send(run.pid)
        interrupted = ended(run)
    assert interrupted.code == 130, interrupted
    assert f"go on with `sweepstakes run {sweep}`" in interrupted.err
    assert "Traceback" not in interrupted.out + interrupted.err
    assert gone(family)
    assert local.stop(home.path) == (), "the run left servers behind"

    between = created(home.records())
    assert before.items() <= between.items()
    assert len(between) < len(home.plan(sweep))
    local.stop(home.path)
    again = home.call("run", sweep)
    assert again.code == 0, again
    after = created(home.records())
    assert between.items() <= after.items()
    assert set(after) == set(home.plan(sweep).trials)
