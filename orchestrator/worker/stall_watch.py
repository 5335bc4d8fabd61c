"""Ends a worker whose trial hangs, so that its unit gets a strike and another process.

A thread looks at the time of the last step. Where even that thread is kept from running, by native
code that holds the interpreter, the timer of `faulthandler`, which needs no interpreter, ends the
process instead.
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
BEFORE_FIRST_STEP = 10
"""Times the limit, until the first step: data may have to be decoded for it."""


class StallWatch:
    """Watches while it is entered. `report` gets one line and where every thread stands; then the
    process ends."""

    def __init__(self, limit_s: float, report: Callable[[str, str], None]) -> None:
        self._limit_s = limit_s
        self._report = report
        self._allowed_s = BEFORE_FIRST_STEP * limit_s
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="stall watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def alive(self) -> None:
        """The run has good reason to make no step yet."""
        self._last = time.monotonic()

    def step(self) -> None:
        """The run has made a step."""
        self.alive()
        self._allowed_s = self._limit_s

    def _look(self) -> None:
        period_s = min(self._limit_s / 10, 5.0)
        while not self._over.wait(period_s):
            quiet_s = time.monotonic() - self._last
            if quiet_s > self._allowed_s:
                self._report(
                    f"no step for {quiet_s:.0f} s: it hangs; `placement.stall_s` is the limit",
                    _stacks(),
                )
                os._exit(EXIT_STALLED)
            # Not the time that is left: from where this thread last ran, the interpreter was free.
            faulthandler.dump_traceback_later(self._allowed_s + period_s, exit=True)


def _stacks() -> str:
    """Where every thread of this process stands."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
    )
