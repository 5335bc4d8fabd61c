"""The ticket store: the only place with results. A trial exists if and only if its record does.

Records are written last and once, so a reader never sees half of a trial, and a second writer of
the same trial does no harm. Rewind points and tickets are content-addressed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

from orchestrator.errors import Conflict, Damaged, NotInStore
from orchestrator.plan.keys import canonical_json
from orchestrator.store import paths
from orchestrator.store.advice import REPAIR
from orchestrator.store.catalog import Catalog
from orchestrator.store.objects import ObjectInfo, ObjectStore
from orchestrator.store.parquet import decode_ticket, encode_ticket
from orchestrator.store.record import (
    Record,
    TicketRef,
    WeightsRef,
    decode_record,
    encode_record,
)
from orchestrator.store.ticket import Ticket

T = TypeVar("T")
R = TypeVar("R")
READ_THREADS = 16
REWRITE_AGE = timedelta(hours=12)
"""An existing object that is older is written again, so that a garbage collector, which keeps young
objects, cannot delete it before the record refers to it."""


class TrialStore:
    """Tickets, weights and records in an object store. Thread-safe.

    All methods raise `StoreUnreachable` if the store does not answer. Methods that write also raise
    `StoreFull`; methods that read also raise `NotInStore` and `Damaged`.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self._catalog = Catalog(objects)

    def keys(self, prefix: str = "") -> set[str]:
        """Return the keys of all committed trials that start with `prefix`."""
        objects = self.objects.list(f"{paths.RECORDS}{prefix}")
        return {paths.stem(item.path) for item in objects}

    def has(self, key: str) -> bool:
        """Return whether the trial is committed."""
        return self.objects.stat(paths.record(key)) is not None

    def record(self, key: str) -> Record:
        path = paths.record(key)
        data = self.objects.get(path)
        where = self.objects.url(path)
        record = decode_record(data, where=where)
        if record.key != key:
            raise Damaged(f"{where}: this is the record of another trial, {record.key}; {REPAIR}")
        self._catalog.remember(data, record)
        return record

    def records(self, keys: Iterable[str] | None = None) -> dict[str, Record]:
        """Return the records of the committed trials among `keys`, or of all trials.

        They are read through the catalog, and only once per `TrialStore`: records do not change.
        """
        listed = self._list_records()
        wanted = listed.keys() if keys is None else listed.keys() & set(keys)
        records = self._catalog.records(listed, wanted)
        uncached = sorted(wanted - records.keys())
        new = dict(zip(uncached, thread_map(self.record, uncached), strict=True))
        self._catalog.add(new, listed)
        records |= new
        return {key: records[key] for key in sorted(wanted)}

    def commit(self, record: Record) -> bool:
        """Commit the trial. Return False if it is already committed with the same result.

        Raises:
            Conflict: it is already committed with another result; nothing is changed.
        """
        if self.objects.put_new(paths.record(record.key), encode_record(record)):
            return True
        before, now = self.record(record.key).result(), record.result()
        different = [
            name for name in now if canonical_json(before[name]) != canonical_json(now[name])
        ]
        if different:
            raise Conflict(
                f"{self.objects.url(paths.record(record.key))}: the trial is already committed "
                f"with different {', '.join(different)}; either the sweep ran on two kinds of "
                "machine, or the code changed without its `semantics` number; delete that record "
                "to accept the new one"
            )
        return False

    def put_ticket(self, ticket: Ticket) -> TicketRef:
        sha256 = ticket.sha256
        size = self._put_content(paths.ticket(sha256), lambda: encode_ticket(ticket))
        return TicketRef(sha256=sha256, kept=ticket.kept, total=ticket.total, bytes=size)

    def ticket(self, sha256: str) -> Ticket:
        path = paths.ticket(sha256)
        return decode_ticket(self.objects.get(path), sha256, where=self.objects.url(path))

    def put_weights(self, key: str, step: int, payload: bytes) -> WeightsRef:
        """Store the weights (safetensors) of training run `key` after `step` optimizer steps."""
        sha256 = hashlib.sha256(payload).hexdigest()
        path = paths.weights(key, step, sha256)
        size = self._put_content(path, lambda: payload)
        return WeightsRef(path=path, sha256=sha256, bytes=size)

    def weights(self, ref: WeightsRef) -> bytes:
        payload = self.objects.get(ref.path)
        if hashlib.sha256(payload).hexdigest() != ref.sha256:
            raise Damaged(f"{self.objects.url(ref.path)}: damaged weights; {REPAIR}")
        return payload

    def rewind_point(self, key: str) -> bytes:
        """Return the weights (safetensors) that the rewind trial `key` saved."""
        ref = self.record(key).weights
        assert ref is not None, f"trial {key} is not a rewind point"
        return self.weights(ref)

    def put_checkpoint(self, key: str, payload: bytes) -> None:
        """Store the state (safetensors) of an unfinished run; replaces its last checkpoint."""
        self.objects.put(paths.checkpoint(key), payload)

    def checkpoint(self, key: str) -> bytes | None:
        try:
            return self.objects.get(paths.checkpoint(key))
        except NotInStore:
            return None

    def delete_checkpoint(self, key: str) -> None:
        self.objects.delete(paths.checkpoint(key))

    def put_failure(self, key: str, info: Mapping[str, Any]) -> None:
        """Store why a trial failed; replaces its last failure. `info` must be encodable as
        canonical JSON, and its `error` is one line."""
        self.objects.put(paths.failure(key), canonical_json(info))

    def failures(self, keys: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the last failure of each of `keys`, or of all trials, by key.

        Trials that were committed later are included.
        """
        failed = {paths.stem(item.path) for item in self.objects.list(paths.FAILURES)}
        wanted = sorted(failed if keys is None else failed.intersection(keys))
        failures = zip(wanted, thread_map(self._failure, wanted), strict=True)
        return {key: failure for key, failure in failures if failure is not None}

    def _failure(self, key: str) -> dict[str, Any] | None:
        try:
            failure = json.loads(self.objects.get(paths.failure(key)))
        except NotInStore:  # deleted since it was listed
            return None
        except (ValueError, Damaged):
            failure = None
        if not isinstance(failure, dict) or not isinstance(failure.get("error"), str):
            url = self.objects.url(paths.failure(key))
            return {"error": f"{url}: this failure note is unreadable"}
        return failure

    def put_log(self, key: str, text: str) -> None:
        """Store the log of all attempts at a trial; replaces its last log."""
        self.objects.put(paths.log(key), text.encode())

    def log_keys(self, prefix: str) -> list[str]:
        """Return the keys of all trials with a log that start with `prefix`."""
        return [paths.stem(item.path) for item in self.objects.list(f"{paths.LOGS}{prefix}")]

    def log(self, key: str) -> str:
        """Return the log of all attempts at a trial; empty if it is missing or damaged."""
        try:
            return self.objects.get(paths.log(key)).decode(errors="replace")
        except (NotInStore, Damaged):
            return ""

    def _list_records(self) -> dict[str, ObjectInfo]:
        return {paths.stem(item.path): item for item in self.objects.list(paths.RECORDS)}

    def _put_content(self, path: str, content: Callable[[], bytes]) -> int:
        """Write a content-addressed object unless it exists; return its size in bytes.

        Checking first saves the upload. It also avoids contended conditional PUTs on SeaweedFS,
        where the loser waits up to 3 s.
        """
        existing = self.objects.stat(path)
        if existing and existing.age < REWRITE_AGE:
            return existing.size
        data = content()
        if existing:
            self.objects.put(path, data)
        else:
            self.objects.put_new(path, data)
        return len(data)


def thread_map(
    function: Callable[[T], R], items: Iterable[T], *, threads: int = READ_THREADS
) -> list[R]:
    """Return `function(item)` for all items, in order, computed on a few threads.

    Meant for requests, which mostly wait.
    """
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
