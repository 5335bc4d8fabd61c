"""Processes of a group: their results, their failures, and that no process is left."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.waits import HANG_S
from trainables.distributed.collectives import current_peers
from trainables.distributed.launch import ParentCall, run_processes
from trainables.errors import GroupError, InvariantError


def member(argument: bytes, call: ParentCall) -> Any:
    """Entry point of each child; `argument` selects the case."""
    peers = current_peers()
    case = pickle.loads(argument)
    total = int(peers.all_reduce(np.array([peers.rank + 1], np.int64))[0])
    if peers.rank == 1:
        if case == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if case == "refuses":
            raise InvariantError("weights: layer 3 is not finite")
        if case == "fails":
            raise KeyError("layer 3")
    if case == "hangs" and peers.is_first:
        call("pid", os.getpid())
    if case != "sums":
        peers.broadcast(total)  # waits for the other process, which never calls it
        time.sleep(600)
    return total, call("result", blob=b"x" * 100_000) if peers.is_first else None


def launched(case: str, handler: Any = None) -> Any:
    return run_processes(
        f"{__name__}:member",
        pickle.dumps(case),
        handler or (lambda name, arguments, blob: len(blob or b"")),
        count=2,
        device="cpu",
    )


def children() -> list[psutil.Process]:
    processes = psutil.Process().children(recursive=True)
    name = "trainables.distributed.launch"
    return [each for each in processes if name in " ".join(each.cmdline())]


def test_processes_form_a_group_and_rank_0_calls_the_parent() -> None:
    assert launched("sums") == (3, 100_000)
    assert children() == []


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("killed", GroupError, "process 1 of 2 of the trial was killed by SIGKILL"),
        pytest.param("refuses", InvariantError, "layer 3 is not finite", marks=pytest.mark.slow),
        pytest.param("fails", GroupError, "KeyError: 'layer 3'", marks=pytest.mark.slow),
    ],
)
def test_a_failed_process_ends_the_group_with_its_error(
    case: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        launched(case)
    assert "\n" not in str(caught.value)
    if case != "killed":
        assert "in member" in caught.value.__notes__[0]
    assert children() == []


@pytest.mark.slow
def test_an_error_of_the_handler_ends_the_group() -> None:
    def interrupted(name: str, arguments: Any, blob: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launched("sums", interrupted)
    assert children() == []


PARENT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.trainables.distributed.test_launch import launched
launched("hangs", lambda name, arguments, blob: print(*arguments, flush=True))
"""


@pytest.mark.slow
def test_a_killed_parent_leaves_no_orphans() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    processes = [psutil.Process(int(parent.stdout.readline()))]
    processes += psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(processes, timeout=HANG_S)[1] == []
