"""Processes that work together: what they return, how they fail, and that none is left."""

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
from trainables.distributed.collectives import here
from trainables.distributed.launch import Call, together
from trainables.errors import GroupError, InvariantError


def member(argument: bytes, call: Call) -> Any:
    """What each child does, as `argument` says; run by name."""
    peers = here()
    case = pickle.loads(argument)
    everyone = int(peers.total(np.array([peers.rank + 1], np.int64))[0])
    if peers.rank == 1:
        if case == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if case == "refuses":
            raise InvariantError("weights: layer 3 is not finite")
        if case == "fails":
            raise KeyError("layer 3")
    if case == "hangs" and peers.first:
        call("here", os.getpid())
    if case != "sums":
        peers.agreed(everyone)  # waits for the other, who does not come
        time.sleep(600)
    return everyone, call("told", blob=b"x" * 100_000) if peers.first else None


def launched(case: str, serve: Any = None) -> Any:
    return together(
        f"{__name__}:member",
        pickle.dumps(case),
        serve or (lambda name, arguments, blob: len(blob or b"")),
        count=2,
        device="cpu",
    )


def children() -> list[psutil.Process]:
    own = psutil.Process().children(recursive=True)
    return [each for each in own if "trainables.distributed.launch" in " ".join(each.cmdline())]


def test_processes_count_together_and_the_first_speaks_with_the_parent() -> None:
    assert launched("sums") == (3, 100_000)
    assert children() == []


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("killed", GroupError, "process 1 of 2 of the trial was killed by SIGKILL"),
        pytest.param("refuses", InvariantError, "layer 3 is not finite", marks=pytest.mark.slow),
        pytest.param("fails", GroupError, "KeyError: 'layer 3'", marks=pytest.mark.slow),
    ],
)
def test_the_failure_of_one_ends_all_and_is_told(
    case: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        launched(case)
    assert "\n" not in str(caught.value)
    if case != "killed":
        assert "in member" in caught.value.__notes__[0]
    assert children() == []


@pytest.mark.slow
def test_what_the_parent_raises_while_it_serves_ends_all() -> None:
    def refusing(name: str, arguments: Any, blob: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launched("sums", refusing)
    assert children() == []


PARENT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.trainables.distributed.test_launch import launched
launched("hangs", lambda name, arguments, blob: print(*arguments, flush=True))
"""


@pytest.mark.slow
def test_a_parent_that_is_killed_leaves_no_orphan() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    family = [psutil.Process(int(parent.stdout.readline()))]
    family += psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(family, timeout=60)[1] == []
