"""Who is at which unit of work: so that several drivers on one store seldom do the same thing.

A claim is an object `claims/KEY/GENERATION`, created by a conditional PUT, written again every 10 s
by the worker that holds it, and alive while it is younger than 30 s by the server's own clock: no
two machines' clocks are ever compared. Whoever meets a dead claim creates the next generation,
which one of several can. Claims only spare work: results are right without them, since a trial is
committed once, and a second worker of it commits the same.
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
from orchestrator.plan.keys import canonical
from orchestrator.store import paths
from orchestrator.store.objects import Listed, ObjectStore
from orchestrator.store.tickets import each

RENEWED_S = 10.0
ALIVE = timedelta(seconds=30)
"""Three renewals: two may fail."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a claim: a run of a sweep, and the machine of its worker."""

    run: str
    host: str
    held_s: float = 0.0
    """Since it took the claim, by its own clock."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of one run of a sweep. Raises StoreError where the store does not answer."""

    objects: ObjectStore
    run: str

    @contextmanager
    def held(self, key: str) -> Iterator[bool]:
        """Hold the claim of the unit `key` meanwhile; False where another run is at it."""
        path = self._take(key)
        if path is None:
            yield False
            return
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(path, done), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            done.set()
            renewing.join(RENEWED_S)
            with suppress(StoreError):  # left behind, it dies by itself
                self._release(key, path)

    def alive(self) -> dict[str, Holder]:
        """The holders of all live claims, by the key of the unit."""
        latest = {item.path.split("/")[1]: item for item in self.objects.list(paths.CLAIMS)}
        alive = {key: item for key, item in latest.items() if _is_alive(item)}
        found = zip(alive, each(self._holder, alive.values()), strict=True)
        return {
            key: replace(holder, held_s=holder.held_s + alive[key].age.total_seconds())
            for key, holder in found
            if holder is not None
        }

    def is_busy(self, key: str) -> bool:
        """Whether another run is at the unit."""
        latest = self._latest(key)
        if latest is None or not _is_alive(latest):
            return False
        holder = self._holder(latest)
        return holder is not None and holder.run != self.run

    def _take(self, key: str) -> str | None:
        path = paths.claim(key, 0)
        if self.objects.put_new(path, self._content()):
            return path
        latest = self._latest(key)
        if latest is None:  # released since
            return self._take(key)
        holder = self._holder(latest)
        if holder is not None and holder.run == self.run:
            return latest.path  # of a worker of ours that died, or whose reply was lost
        if holder is not None and _is_alive(latest):
            return None
        path = paths.claim(key, int(paths.stem(latest.path)) + 1)
        return path if self.objects.put_new(path, self._content()) else None

    def _renew(self, path: str, done: threading.Event) -> None:
        begin = time.monotonic()
        while not done.wait(RENEWED_S):
            with suppress(StoreError):
                self.objects.put(path, self._content(time.monotonic() - begin))

    def _release(self, key: str, path: str) -> None:
        """Also the dead claims that this one followed."""
        if path != paths.claim(key, 0):
            for item in list(self.objects.list(paths.claims_of(key))):
                if item.path < path:
                    self.objects.delete(item.path)
        self.objects.delete(path)

    def _latest(self, key: str) -> Listed | None:
        return max(self.objects.list(paths.claims_of(key)), key=lambda i: i.path, default=None)

    def _holder(self, item: Listed) -> Holder | None:
        try:
            return Holder(**json.loads(self.objects.get(item.path)))
        except (NotInStore, ValueError, TypeError):  # gone since, or not of ours
            return None

    def _content(self, held_s: float = 0.0) -> bytes:
        return canonical(asdict(Holder(self.run, platform.node(), round(held_s, 3))))


def _is_alive(item: Listed) -> bool:
    """A claim from the future is one of before the server's clock was set back: its holder, if
    there is one, has renewed it since."""
    return abs(item.age) < ALIVE
