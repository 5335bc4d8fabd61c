"""Follows the units that other runs on the same store are at, on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from orchestrator.errors import StoreError
from orchestrator.store.leases import Claims
from orchestrator.store.tickets import TicketStore

PERIOD_S = 3.0
AWAY_S = 300.0
"""How long a store may be away while others are at all that is left. A worker of ours that needs it
gives up sooner."""


@dataclass(frozen=True, slots=True)
class News:
    """Nobody is at the unit `head` any more; of its trials, those `committed` are done."""

    head: str
    committed: tuple[str, ...]


class Lookout:
    """Asked to `follow` a unit, it looks every few seconds until there is `news` of it.

    What goes wrong on its thread is raised by `news`, or the run would wait for ever; that the
    store is away, once it has been so for long.
    """

    def __init__(self, store: TicketStore, claims: Claims) -> None:
        self._store = store
        self._claims = claims
        self._followed: dict[str, frozenset[str]] = {}
        self._news: SimpleQueue[News] = SimpleQueue()
        self._wake = threading.Event()
        self._failed: Exception | None = None
        self._away: tuple[float, StoreError] | None = None
        """Since when the store does not answer, and what it said at first."""
        threading.Thread(target=self._look, name="lookout", daemon=True).start()

    def follow(self, head: str, trials: Iterable[str]) -> None:
        self._followed[head] = frozenset(trials)
        self._wake.set()

    def news(self) -> list[News]:
        """What has become known since the last call."""
        if self._failed is not None:
            raise self._failed
        if (away := self._away) and time.monotonic() - away[0] > AWAY_S:
            raise away[1]
        found = []
        while True:
            try:
                found.append(self._news.get_nowait())
            except Empty:
                return found

    def _look(self) -> None:
        try:
            while True:
                self._wake.wait(PERIOD_S if self._followed else None)
                self._wake.clear()
                try:
                    for head, trials in list(self._followed.items()):
                        self._ask(head, trials)
                    self._away = None
                except StoreError as error:
                    self._away = self._away or (time.monotonic(), error)
        except Exception as error:
            self._failed = error

    def _ask(self, head: str, trials: frozenset[str]) -> None:
        busy = self._claims.is_busy(head)  # before the records: a claim outlives its last commit
        committed = tuple(key for key in sorted(trials) if self._store.has(key))
        if len(committed) == len(trials) or not busy:
            del self._followed[head]
            self._news.put(News(head, committed))
