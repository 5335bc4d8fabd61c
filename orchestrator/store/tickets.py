"""The ticket store: the one place where results are. A trial exists if and only if its record does.

Records are written last and once, so that a reader never meets half a trial and a second writer
of the same trial does no harm. Rewind points and tickets are named by their content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

from orchestrator.errors import Conflict, Damaged, NotInStore
from orchestrator.plan.keys import canonical
from orchestrator.store import parquet, paths
from orchestrator.store import record as records_json
from orchestrator.store.advice import REPAIR
from orchestrator.store.catalog import Catalog
from orchestrator.store.objects import Listed, ObjectStore
from orchestrator.store.record import Record, TicketRef, WeightsRef
from orchestrator.store.ticket import Ticket

T = TypeVar("T")
R = TypeVar("R")
READERS = 16
FRESH = timedelta(hours=12)
"""An object that is found there already and is older gets written again, so that a collector of
unreferenced objects, which spares young ones, cannot take it before the record refers to it."""


class TicketStore:
    """Tickets, weights and records over an object store. May be shared by threads.

    All methods raise `StoreUnreachable` when the store does not answer; the writing ones
    `StoreFull`; the reading ones `NotInStore` and `Damaged`.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self._catalog = Catalog(objects)

    def keys(self, beginning: str = "") -> set[str]:
        """Keys of all committed trials, or of those that begin so."""
        found = self.objects.list(f"{paths.RECORDS}{beginning}")
        return {paths.stem(item.path) for item in found}

    def has(self, key: str) -> bool:
        """Whether the trial is committed."""
        return self.objects.stat(paths.record(key)) is not None

    def record(self, key: str) -> Record:
        path = paths.record(key)
        data = self.objects.get(path)
        where = self.objects.where(path)
        record = records_json.decode(data, where=where)
        if record.key != key:
            raise Damaged(f"{where}: it is the record of another trial, {record.key}; {REPAIR}")
        self._catalog.saw(data, record)
        return record

    def records(self, keys: Iterable[str] | None = None) -> dict[str, Record]:
        """The records of those of `keys` that are committed, or of all trials.

        Read through the catalog, and by one `TicketStore` only once: a record does not change.
        """
        listed = self._listed()
        wanted = listed.keys() if keys is None else listed.keys() & set(keys)
        known = self._catalog.records(listed, wanted)
        unknown = sorted(wanted - known.keys())
        read = dict(zip(unknown, each(self.record, unknown), strict=True))
        self._catalog.add(read, listed)
        known |= read
        return {key: known[key] for key in sorted(wanted)}

    def commit(self, record: Record) -> bool:
        """Make the trial exist. False if it did already, with the same result.

        Raises:
            Conflict: it exists with another result; nothing is changed.
        """
        if self.objects.put_new(paths.record(record.key), records_json.encode(record)):
            return True
        before, now = self.record(record.key).result(), record.result()
        different = [name for name in now if canonical(before[name]) != canonical(now[name])]
        if different:
            raise Conflict(
                f"{self.objects.where(paths.record(record.key))}: the trial is committed with "
                f"another {', '.join(different)}; two kinds of machine in one sweep, or code that "
                "changed without its `semantics` number; delete that record to accept the new one"
            )
        return False

    def put_ticket(self, ticket: Ticket) -> TicketRef:
        sha256 = ticket.sha256
        size = self._put_content(paths.ticket(sha256), lambda: parquet.encode(ticket))
        return TicketRef(sha256=sha256, kept=ticket.kept, total=ticket.total, bytes=size)

    def ticket(self, sha256: str) -> Ticket:
        path = paths.ticket(sha256)
        return parquet.decode(self.objects.get(path), sha256, where=self.objects.where(path))

    def put_weights(self, key: str, step: int, payload: bytes) -> WeightsRef:
        """Keep the weights (safetensors) of training run `key` after `step` optimizer steps."""
        sha256 = hashlib.sha256(payload).hexdigest()
        path = paths.weights(key, step, sha256)
        size = self._put_content(path, lambda: payload)
        return WeightsRef(path=path, sha256=sha256, bytes=size)

    def weights(self, ref: WeightsRef) -> bytes:
        payload = self.objects.get(ref.path)
        if hashlib.sha256(payload).hexdigest() != ref.sha256:
            raise Damaged(f"{self.objects.where(ref.path)}: damaged weights; {REPAIR}")
        return payload

    def put_checkpoint(self, key: str, payload: bytes) -> None:
        """Keep the state (safetensors) of a run in progress, in place of its last one."""
        self.objects.put(paths.checkpoint(key), payload)

    def checkpoint(self, key: str) -> bytes | None:
        try:
            return self.objects.get(paths.checkpoint(key))
        except NotInStore:
            return None

    def drop_checkpoint(self, key: str) -> None:
        self.objects.delete(paths.checkpoint(key))

    def note_failure(self, key: str, info: Mapping[str, Any]) -> None:
        """Keep why a trial failed last; `info` is what canonical JSON can say, and its `error` one
        line."""
        self.objects.put(paths.failure(key), canonical(info))

    def failures(self, keys: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Why those of `keys`, or all, failed last; also those that were committed later."""
        noted = {paths.stem(item.path) for item in self.objects.list(paths.FAILURES)}
        wanted = sorted(noted if keys is None else noted.intersection(keys))
        notes = zip(wanted, each(self._failure, wanted), strict=True)
        return {key: note for key, note in notes if note is not None}

    def _failure(self, key: str) -> dict[str, Any] | None:
        try:
            note = json.loads(self.objects.get(paths.failure(key)))
        except NotInStore:  # collected since it was listed
            return None
        except (ValueError, Damaged):
            note = None
        if not isinstance(note, dict) or not isinstance(note.get("error"), str):
            return {"error": f"{self.objects.where(paths.failure(key))}: this note is unreadable"}
        return note

    def put_log(self, key: str, text: str) -> None:
        """Keep what the attempts at a trial had to say, in place of what was kept before."""
        self.objects.put(paths.log(key), text.encode())

    def logged(self, beginning: str) -> list[str]:
        """Keys, of those that begin so, under which a log was kept."""
        return [paths.stem(i.path) for i in self.objects.list(f"{paths.LOGS}{beginning}")]

    def log(self, key: str) -> str:
        """What the attempts at a trial had to say; empty if nothing was kept, or it is damaged."""
        try:
            return self.objects.get(paths.log(key)).decode(errors="replace")
        except (NotInStore, Damaged):
            return ""

    def _listed(self) -> dict[str, Listed]:
        return {paths.stem(item.path): item for item in self.objects.list(paths.RECORDS)}

    def _put_content(self, path: str, content: Callable[[], bytes]) -> int:
        """Write what is named by its content unless it is there; its size in bytes.

        Asking first spares the upload, and spares SeaweedFS a contended conditional PUT, which
        the loser waits up to 3 s for.
        """
        there = self.objects.stat(path)
        if there and there.age < FRESH:
            return there.size
        data = content()
        if there:
            self.objects.put(path, data)
        else:
            self.objects.put_new(path, data)
        return len(data)


def each(function: Callable[[T], R], items: Iterable[T], *, threads: int = READERS) -> list[R]:
    """`function` of each item, in order, on a few threads: for requests, which mostly wait."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
