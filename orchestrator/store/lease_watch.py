"""Watch work items leased to other runs on the same store, on a background thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from orchestrator.errors import StoreError
from orchestrator.store.leases import Leases
from orchestrator.store.tickets import TrialStore

LEASE_POLL_S = 3.0
MAX_OUTAGE_S = 300.0
"""How long the store may be unreachable while only items of other runs are left. A worker of this
run that needs the store gives up sooner."""


@dataclass(frozen=True, slots=True)
class LeaseEvent:
    """The work item `key` is no longer leased; its trials in `committed` are done."""

    key: str
    committed: tuple[str, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    """Score of the item's training run, if it is among the committed trials."""


class LeaseWatcher:
    """Polls each watched work item until it is committed or its lease ends; `events` returns which.

    Errors of the background thread are raised by `events`, since the run would otherwise wait
    forever; an unreachable store is raised only after `MAX_OUTAGE_S`.
    """

    def __init__(self, store: TrialStore, leases: Leases) -> None:
        self._store = store
        self._leases = leases
        self._watched: dict[str, frozenset[str]] = {}
        self._events: SimpleQueue[LeaseEvent] = SimpleQueue()
        self._wake = threading.Event()
        self._error: Exception | None = None
        self._outage: tuple[float, StoreError] | None = None
        """When the store stopped answering, and the first error."""
        threading.Thread(target=self._run, name="lease-watcher", daemon=True).start()

    def watch(self, key: str, trials: Iterable[str]) -> None:
        self._watched[key] = frozenset(trials)
        self._wake.set()

    def events(self) -> list[LeaseEvent]:
        """Return the events since the last call."""
        if self._error is not None:
            raise self._error
        if (outage := self._outage) and time.monotonic() - outage[0] > MAX_OUTAGE_S:
            raise outage[1]
        events = []
        while True:
            try:
                events.append(self._events.get_nowait())
            except Empty:
                return events

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait(LEASE_POLL_S if self._watched else None)
                self._wake.clear()
                try:
                    for key, trials in list(self._watched.items()):
                        self._poll(key, trials)
                    self._outage = None
                except StoreError as error:
                    self._outage = self._outage or (time.monotonic(), error)
        except Exception as error:
            self._error = error

    def _poll(self, key: str, trials: frozenset[str]) -> None:
        # The lease is read before the records: it outlives the last commit of its item.
        leased = self._leases.leased_by_other(key)
        committed = tuple(trial for trial in sorted(trials) if self._store.has(trial))
        if len(committed) == len(trials) or not leased:
            scores = self._store.record(key).scores if key in committed else {}
            score = {key: scores["score"]} if "score" in scores else {}
            del self._watched[key]
            self._events.put(LeaseEvent(key, committed, score))
