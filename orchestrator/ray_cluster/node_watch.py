"""The nodes of the cluster, shown while a run goes on to whoever wants to see them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

PERIOD_S = 1.0
"""Between two looks; one costs the driver some milliseconds on a thread."""

Node = Mapping[str, Any]
"""As `ray.nodes()` gives it."""


@contextmanager
def shown(*watchers: Callable[[list[Node]], None]) -> Iterator[None]:
    """Call each watcher with the nodes that are alive: at once, every second, and at the end. Ray
    must be up."""
    ended = threading.Event()

    def look() -> None:
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        except RayError:  # the head is being restarted; the next look tells
            return
        for watcher in watchers:
            watcher(nodes)

    def watch() -> None:
        while not ended.wait(PERIOD_S):
            look()

    look()
    thread = threading.Thread(target=watch, name="nodes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()
