"""Leases on work items, so that drivers sharing a store rarely duplicate work.

A lease is an object `leases/KEY/GENERATION`. It is created by a conditional PUT, renewed every 10 s
by the worker that holds it, and active while it is younger than 30 s by the server's own clock, so
clocks of different machines are never compared. To take over an expired lease, a run creates the
next generation; of several runs, only one can. Leases only save work: results are correct without
them, since a trial is committed once and a second worker commits the same result.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

from orchestrator.errors import NotInStore, StoreError
from orchestrator.plan.keys import canonical_json
from orchestrator.store import paths
from orchestrator.store.objects import ObjectInfo, ObjectStore
from orchestrator.store.tickets import thread_map

RENEW_INTERVAL_S = 10.0
LEASE_TTL = timedelta(seconds=30)
"""Three renewals: two may fail."""


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The run that holds a lease, and the host of its worker."""

    run: str
    host: str
    lease_age_s: float = 0.0
    """Seconds since the lease was acquired, by the holder's own clock."""


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of one run of a sweep. Raises StoreError if the store does not answer."""

    objects: ObjectStore
    run: str

    @contextmanager
    def acquire(self, key: str) -> Iterator[bool]:
        """Hold the lease of work item `key` for the block; yield False if another run holds it."""
        path = self._try_acquire(key)
        if path is None:
            yield False
            return
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(path, done), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            done.set()
            renewal.join(RENEW_INTERVAL_S)
            with suppress(StoreError):  # a lease that is not released expires
                self._release(key, path)

    def active(self) -> dict[str, LeaseHolder]:
        """Return the holders of all active leases, by the key of the work item."""
        latest = {item.path.split("/")[1]: item for item in self.objects.list(paths.LEASES)}
        active = {key: item for key, item in latest.items() if _is_active(item)}
        holders = zip(active, thread_map(self._read_holder, active.values()), strict=True)
        return {
            key: replace(holder, lease_age_s=holder.lease_age_s + active[key].age.total_seconds())
            for key, holder in holders
            if holder is not None
        }

    def leased_by_other(self, key: str) -> bool:
        """Return whether another run holds an active lease on the work item."""
        latest = self._latest(key)
        if latest is None or not _is_active(latest):
            return False
        holder = self._read_holder(latest)
        return holder is not None and holder.run != self.run

    def _try_acquire(self, key: str) -> str | None:
        path = paths.lease(key, 0)
        if self.objects.put_new(path, self._content()):
            return path
        latest = self._latest(key)
        if latest is None:  # released in the meantime
            return self._try_acquire(key)
        holder = self._read_holder(latest)
        if holder is not None and holder.run == self.run:
            return latest.path  # of a failed worker of this run, or the reply was lost
        if holder is not None and _is_active(latest):
            return None
        path = paths.lease(key, int(paths.stem(latest.path)) + 1)
        return path if self.objects.put_new(path, self._content()) else None

    def _renew(self, path: str, done: threading.Event) -> None:
        begin = time.monotonic()
        while not done.wait(RENEW_INTERVAL_S):
            with suppress(StoreError):
                self.objects.put(path, self._content(time.monotonic() - begin))

    def _release(self, key: str, path: str) -> None:
        """Delete the lease and the expired generations before it."""
        if path != paths.lease(key, 0):
            for item in list(self.objects.list(paths.leases_of(key))):
                if item.path < path:
                    self.objects.delete(item.path)
        self.objects.delete(path)

    def _latest(self, key: str) -> ObjectInfo | None:
        leases = self.objects.list(paths.leases_of(key))
        return max(leases, key=lambda item: item.path, default=None)

    def _read_holder(self, item: ObjectInfo) -> LeaseHolder | None:
        try:
            return LeaseHolder(**json.loads(self.objects.get(item.path)))
        except (NotInStore, ValueError, TypeError):  # released in the meantime, or not a lease
            return None

    def _content(self, age_s: float = 0.0) -> bytes:
        return canonical_json(asdict(LeaseHolder(self.run, platform.node(), round(age_s, 3))))


def _is_active(item: ObjectInfo) -> bool:
    """A lease dated in the future was written before the server's clock was set back: its holder,
    if there is one, has renewed it since."""
    return abs(item.age) < LEASE_TTL
