"""Waiting for what should happen, with one limit that only something stuck reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

HANG_S = 1500.0
"""After this time something counts as stuck. A machine that is busy with other programs has needed
five times as long as an idle one, for what takes a minute there. pytest's own limit
(pyproject.toml) is higher, so that the test can say what it waited for."""


def wait_for(
    condition: Callable[[], Found], failure: Callable[[], object] = lambda: "", poll_s: float = 0.05
) -> Found:
    """Wait until `condition` returns something true, and return it. If it never does, fail with
    what `failure` says. `failure` may also fail earlier: it is called before each pause."""
    deadline = time.monotonic() + HANG_S
    while not (found := condition()):
        message = failure()
        assert time.monotonic() < deadline, message
        time.sleep(poll_s)
    return found
