"""A watchdog that ends a process whose trial hangs, so that the work item is retried in another.

A thread checks the time since the last step. Native code that holds the interpreter keeps even that
thread from running; then the timer of `faulthandler`, which does not need the interpreter, ends the
process.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Self

EXIT_STALLED = 75
FIRST_STEP_FACTOR = 10
"""Multiplies the timeout before the first step, which may have to wait for data to be decoded."""


class StallWatchdog:
    """Active within its `with` block. After `timeout_s` without a step or heartbeat it calls
    `report` with a one-line message and the stacks of all threads, and ends the process."""

    def __init__(self, timeout_s: float, report: Callable[[str, str], None]) -> None:
        self._timeout_s = timeout_s
        self._report = report
        self._allowed_s = FIRST_STEP_FACTOR * timeout_s
        self._last = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def heartbeat(self) -> None:
        """Record that the run is progressing between two steps."""
        self._last = time.monotonic()

    def step(self) -> None:
        """Record that the run has taken a step."""
        self.heartbeat()
        self._allowed_s = self._timeout_s

    def _watch(self) -> None:
        period_s = min(self._timeout_s / 10, 5.0)
        while not self._closed.wait(period_s):
            quiet_s = time.monotonic() - self._last
            if quiet_s > self._allowed_s:
                self._report(
                    f"no step for {quiet_s:.0f} s: the trial hangs, or"
                    " `placement.stall_timeout_s` is too short for it",
                    _stacks(),
                )
                os._exit(EXIT_STALLED)
            # The full time, not what is left of it: the interpreter was free until this point.
            faulthandler.dump_traceback_later(self._allowed_s + period_s, exit=True)


def _stacks() -> str:
    """Return the stack of every thread of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
    )
