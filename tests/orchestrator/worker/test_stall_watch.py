"""The stall watchdog ends a process that hangs: by a thread, or by a timer if no thread can run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator.worker.stall_watch import EXIT_STALLED

STALL_TIMEOUT_S = 3.0
"""Shorter than the four seconds that a healthy process runs, longer than delays by other load."""
PROLOGUE = """
import time, ctypes
from orchestrator.worker.stall_watch import StallWatchdog

def report(line, stacks):
    print(line, flush=True)
    print(stacks, flush=True)

with StallWatchdog(STALL_TIMEOUT_S, report) as watchdog:
"""
SLEEP = "    watchdog.step(); time.sleep(60)"
HOLD_THE_INTERPRETER = "    watchdog.step(); time.sleep(2.0); ctypes.PyDLL(None).sleep(60)"
TAKE_STEPS = """
    for _ in range(40):
        watchdog.step()
        time.sleep(0.1)
print("done")
"""
SEND_HEARTBEATS = """
    watchdog.step()
    for _ in range(40):
        watchdog.heartbeat()
        time.sleep(0.1)
print("done")
"""


def run_under_watchdog(body: str) -> subprocess.CompletedProcess[str]:
    code = PROLOGUE.replace("STALL_TIMEOUT_S", str(STALL_TIMEOUT_S)) + body
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_sleeping_process_is_ended_and_its_stacks_are_reported() -> None:
    done = run_under_watchdog(SLEEP)
    assert done.returncode == EXIT_STALLED
    assert "placement.stall_timeout_s" in done.stdout
    assert "MainThread" in done.stdout


def test_a_process_that_holds_the_interpreter_is_ended_by_a_timer() -> None:
    done = run_under_watchdog(HOLD_THE_INTERPRETER)
    assert done.returncode == 1
    assert "Timeout" in done.stderr


@pytest.mark.parametrize("body", [TAKE_STEPS, SEND_HEARTBEATS])
def test_a_process_with_steps_or_heartbeats_is_not_ended(body: str) -> None:
    done = run_under_watchdog(body)
    assert (done.returncode, done.stdout) == (0, "done\n")
