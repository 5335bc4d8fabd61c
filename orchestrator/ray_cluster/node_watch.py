"""Polling of the cluster's nodes during a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

NODE_POLL_PERIOD_S = 1.0
"""One poll costs the driver a few milliseconds, in a thread."""

Node = Mapping[str, Any]
"""One entry of `ray.nodes()`."""


@contextmanager
def poll_nodes(*callbacks: Callable[[list[Node]], None]) -> Iterator[None]:
    """Call each callback with the live nodes: at once, every second, and at the end.

    Ray must be initialized.
    """
    ended = threading.Event()

    def poll() -> None:
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        except RayError:  # the head is restarting; the next poll may succeed
            return
        for callback in callbacks:
            callback(nodes)

    def poll_until_ended() -> None:
        while not ended.wait(NODE_POLL_PERIOD_S):
            poll()

    poll()
    thread = threading.Thread(target=poll_until_ended, name="nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        poll()
