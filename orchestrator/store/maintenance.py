"""Verify, repair and clean a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from orchestrator.errors import Damaged, NotInStore
from orchestrator.plan.keys import canonical_sha256
from orchestrator.store import catalog, paths
from orchestrator.store.advice import REPAIR
from orchestrator.store.objects import ObjectInfo
from orchestrator.store.record import Record
from orchestrator.store.tickets import TrialStore, thread_map

GRACE_PERIOD = timedelta(hours=24)
"""A younger object may belong to a trial that is about to be committed. This is twice the age at
which `TrialStore` writes an existing object again."""
CONTENT_ADDRESSED = (paths.TICKETS, paths.WEIGHTS)
TRIAL_STATE = (paths.CHECKPOINTS, paths.FAILURES, paths.LOGS)
"""What a trial writes before it is committed; afterwards only the log is of use."""
HASH_THREADS = 4
"""Threads that read complete objects: each may hold some hundred megabytes of weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    checked: int
    """Number of objects read and hashed."""
    bytes: int
    """Total size of the tickets, weights and catalog files among them."""
    damaged: dict[str, str] = field(default_factory=dict)
    """By path: one line on what is wrong."""
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By path of a missing object: the keys of the records that refer to it."""
    orphaned: tuple[ObjectInfo, ...] = ()
    """Objects that no record needs; a running sweep has some."""
    abandoned: tuple[ObjectInfo, ...] = ()
    """State of trials that were never committed; a run of their sweep would resume from it."""

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.missing


def verify_store(store: TrialStore) -> Verification:
    """Read every object and check it against its hash, and every reference against the objects."""
    objects = _contents(store)  # before the records, so that objects of new records are no orphans
    records, damaged = _read_records(store)
    checked = len(records) + len(damaged)
    references = _references(records)
    hashed = [
        *(item for item in objects if item.path.startswith(CONTENT_ADDRESSED)),
        *store.objects.list(paths.CATALOG),
    ]
    faults = thread_map(lambda item: _fault(store, item.path), hashed, threads=HASH_THREADS)
    damaged |= {item.path: fault for item, fault in zip(hashed, faults, strict=True) if fault}
    present = {item.path for item in objects}
    missing = [path for path in sorted(references.keys() - present) if not store.objects.stat(path)]
    orphaned, abandoned = _unneeded(objects, records)
    return Verification(
        checked=checked + len(hashed),
        bytes=sum(item.size for item in hashed),
        damaged=damaged,
        missing={path: tuple(references[path]) for path in missing},
        orphaned=tuple(orphaned),
        abandoned=tuple(abandoned),
    )


def repair_store(store: TrialStore, report: Verification) -> tuple[str, ...]:
    """Delete damaged objects, and the records of the trials that produced damaged or missing
    objects, so that the next run of their sweep produces them again. Returns the deleted paths.

    Everything is checked again first: an object that only looked damaged because the server was
    failing is kept. Records that only use a lost ticket remain: the new ticket will be the same.
    """
    records, _ = _read_records(store)
    damaged = [path for path in report.damaged if _fault(store, path)]
    missing = [path for path in report.missing if not store.objects.stat(path)]
    lost = {*damaged, *missing}
    producers = [
        paths.record(record.key)
        for record in records.values()
        if record.kind != "train" and lost.intersection(_referenced_paths(record))
    ]
    deleted = (*producers, *damaged)
    for path in deleted:
        store.objects.delete(path)
    return deleted


def collect_garbage(
    store: TrialStore,
    *,
    grace: timedelta = GRACE_PERIOD,
    abandoned: bool = False,
    dry_run: bool,
) -> tuple[ObjectInfo, ...]:
    """Delete objects that no record needs and that are older than `grace` by the server's clock.

    With `abandoned`, also delete the state of trials that were never committed. Nothing is deleted
    while a record cannot be read, since it may refer to any object. Returns the deleted objects.

    Raises:
        Damaged: a record cannot be read.
    """
    objects = _contents(store)
    orphaned, uncommitted = _unneeded(objects, store.records())
    candidates = [*orphaned, *uncommitted] if abandoned else orphaned
    expired = tuple(item for item in candidates if item.age > grace)
    if not dry_run:
        for item in expired:
            current = store.objects.stat(item.path)
            if current and current.modified <= item.modified:  # not written again meanwhile
                store.objects.delete(item.path)
    return expired


def _contents(store: TrialStore) -> list[ObjectInfo]:
    """All objects except records and catalog files."""
    prefixes = (paths.TICKETS, paths.WEIGHTS, *TRIAL_STATE, paths.LEASES, paths.PROBES)
    return [item for prefix in prefixes for item in store.objects.list(prefix)]


def _read_records(store: TrialStore) -> tuple[dict[str, Record], dict[str, str]]:
    """All records, read from their own objects and not from the catalog, and the damaged ones."""
    keys = sorted(store.keys())
    results = dict(zip(keys, thread_map(lambda key: _read(store, key), keys), strict=True))
    return (
        {key: record for key, record in results.items() if isinstance(record, Record)},
        {paths.record(key): fault for key, fault in results.items() if isinstance(fault, str)},
    )


def _read(store: TrialStore, key: str) -> Record | str | None:
    """The record, or what is wrong with it; None if it was deleted."""
    try:
        record = store.record(key)
    except NotInStore:
        return None
    except Damaged as error:
        return str(error)
    if record.key != key or canonical_sha256(record.spec) != key:
        return f"{paths.record(key)}: this is the record of another trial"
    return record


def _fault(store: TrialStore, path: str) -> str:
    """What is wrong with a record or a content-addressed object; empty if nothing."""
    if path.startswith(paths.RECORDS):
        result = _read(store, paths.stem(path))
        return result if isinstance(result, str) else ""
    try:
        if path.startswith(paths.TICKETS):
            store.ticket(paths.stem(path))
        elif path.startswith(paths.CATALOG):
            catalog.decode_segment(store.objects.get(path), where=path)
        elif not _sha256(store.objects.get(path)).startswith(paths.stem(path).partition("-")[2]):
            return f"{store.objects.url(path)}: damaged weights; {REPAIR}"
    except NotInStore:
        return ""  # deleted since it was listed
    except Damaged as error:
        return str(error)
    return ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _referenced_paths(record: Record) -> Iterator[str]:
    if record.ticket:
        yield paths.ticket(record.ticket.sha256)
    if record.weights:
        yield record.weights.path


def _references(records: dict[str, Record]) -> dict[str, list[str]]:
    """By path of each object that records refer to: the keys of these records."""
    references: dict[str, list[str]] = {}
    for key, record in records.items():
        for path in _referenced_paths(record):
            references.setdefault(path, []).append(key)
    return references


def _unneeded(
    objects: list[ObjectInfo], records: dict[str, Record]
) -> tuple[list[ObjectInfo], list[ObjectInfo]]:
    """Objects that no record needs, and the state of trials that are not committed.

    The checkpoint and the failures of a committed trial are not needed; its log stays.
    """
    referenced = _references(records).keys()
    orphaned: list[ObjectInfo] = []
    abandoned: list[ObjectInfo] = []
    for item in objects:
        if not item.path.startswith(TRIAL_STATE):
            if item.path not in referenced:
                orphaned.append(item)
        elif paths.trial_key(item.path) not in records:
            abandoned.append(item)
        elif not item.path.startswith(paths.LOGS):
            orphaned.append(item)
    return orphaned, abandoned
