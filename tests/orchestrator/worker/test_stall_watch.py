"""A process that hangs is ended: by a thread, or by a timer where no thread gets to run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.worker.stall_watch import EXIT_STALLED

LIMIT_S = 3.0
"""Below the four seconds of a process that lives, above what noise takes from one."""
PROLOGUE = """
import time, ctypes
from orchestrator.worker.stall_watch import StallWatch

def report(line, stacks):
    print(line, flush=True)
    print(stacks, flush=True)

with StallWatch(LIMIT_S, report) as watch:
"""
SLEEPS = "    watch.step(); time.sleep(60)"
HOLDS_THE_INTERPRETER = "    watch.step(); time.sleep(2.0); ctypes.PyDLL(None).sleep(60)"
STEPS = """
    for _ in range(40):
        watch.step()
        time.sleep(0.1)
print("done")
"""
WAITS = """
    watch.step()
    for _ in range(40):
        watch.alive()
        time.sleep(0.1)
print("done")
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    code = PROLOGUE.replace("LIMIT_S", str(LIMIT_S)) + body
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_a_thread_ends_a_process_that_sleeps_and_says_where() -> None:
    ended = run(SLEEPS)
    assert ended.returncode == EXIT_STALLED
    assert "placement.stall_s" in ended.stdout
    assert "MainThread" in ended.stdout


def test_a_timer_ends_a_process_in_which_no_thread_gets_to_run() -> None:
    ended = run(HOLDS_THE_INTERPRETER)
    assert ended.returncode == 1
    assert "Timeout" in ended.stderr


@pytest.mark.parametrize("body", [STEPS, WAITS])
def test_a_process_that_makes_steps_or_says_why_not_lives(body: str) -> None:
    ended = run(body)
    assert (ended.returncode, ended.stdout) == (0, "done\n")
