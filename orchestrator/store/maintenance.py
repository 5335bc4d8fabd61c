"""Looking after a store: is everything in it what it should be, and what can go?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

from orchestrator.errors import Damaged, NotInStore
from orchestrator.plan.keys import canonical
from orchestrator.store import catalog, paths
from orchestrator.store.advice import REPAIR
from orchestrator.store.objects import Listed
from orchestrator.store.record import Record
from orchestrator.store.tickets import TicketStore, each

GRACE = timedelta(hours=24)
"""An object younger than this may belong to a trial that is about to be committed. Twice the age
at which `TicketStore` writes a found object again."""
HASHED = (paths.TICKETS, paths.WEIGHTS)
LEFT = (paths.CHECKPOINTS, paths.FAILURES, paths.LOGS)
"""What a trial leaves on its way to being committed; only the log is of use after that."""
HASHERS = 4
"""Threads that read whole objects: each may hold some hundred megabytes of weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    checked: int
    """Objects read and hashed."""
    bytes: int
    """Of the tickets, weights and catalog files among them."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Path to one line on what is wrong."""
    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Path of an object that is not there, to the keys of the records that refer to it."""
    orphaned: tuple[Listed, ...] = ()
    """Objects that nobody needs; a sweep that is running has some."""
    abandoned: tuple[Listed, ...] = ()
    """What trials left that were never committed: a run of their sweep would go on from it."""

    @property
    def sound(self) -> bool:
        return not self.damaged and not self.missing


def verify(store: TicketStore) -> Report:
    """Read every object and check it against its hash, and every reference against the objects."""
    held = _contents(store)  # before the records, so that what these refer to is not an orphan
    records, damaged = _read_records(store)
    checked = len(records) + len(damaged)
    references = _references(records)
    hashed = [*(i for i in held if i.path.startswith(HASHED)), *store.objects.list(paths.CATALOG)]
    findings = each(lambda item: _fault(store, item.path), hashed, threads=HASHERS)
    damaged |= {item.path: fault for item, fault in zip(hashed, findings, strict=True) if fault}
    present = {item.path for item in held}
    absent = [path for path in sorted(references.keys() - present) if not store.objects.stat(path)]
    orphaned, abandoned = _unneeded(held, records)
    return Report(
        checked=checked + len(hashed),
        bytes=sum(item.size for item in hashed),
        damaged=damaged,
        missing={path: tuple(references[path]) for path in absent},
        orphaned=tuple(orphaned),
        abandoned=tuple(abandoned),
    )


def repair(store: TicketStore, report: Report) -> tuple[str, ...]:
    """Delete what is damaged and the records of the trials that made what is damaged or missing,
    so that the next run of their sweep makes them again; the paths deleted.

    Everything is looked at once more before: what a failing server made look damaged is kept.
    Records that only use a lost ticket stay: made again, it is the same ticket.
    """
    records, _ = _read_records(store)
    damaged = [path for path in report.damaged if _fault(store, path)]
    missing = [path for path in report.missing if not store.objects.stat(path)]
    lost = {*damaged, *missing}
    makers = [
        paths.record(record.key)
        for record in records.values()
        if record.kind != "train" and lost.intersection(_referred(record))
    ]
    doomed = (*makers, *damaged)
    for path in doomed:
        store.objects.delete(path)
    return doomed


def collect(
    store: TicketStore,
    *,
    grace: timedelta = GRACE,
    abandoned: bool = False,
    dry_run: bool,
) -> tuple[Listed, ...]:
    """Delete the objects that nobody needs, and with `abandoned` also what trials left that were
    never committed, if they are older than `grace` by the server's clock; what they were.

    Nothing is deleted while a record cannot be read, since it may refer to anything.

    Raises:
        Damaged: a record cannot be read.
    """
    held = _contents(store)
    orphaned, left = _unneeded(held, store.records())
    doomed = [*orphaned, *left] if abandoned else orphaned
    old = tuple(item for item in doomed if item.age > grace)
    if not dry_run:
        for item in old:
            now_there = store.objects.stat(item.path)
            if now_there and now_there.modified <= item.modified:  # not written again meanwhile
                store.objects.delete(item.path)
    return old


def _contents(store: TicketStore) -> list[Listed]:
    """Everything but the records and the catalog's files."""
    kinds = (paths.TICKETS, paths.WEIGHTS, *LEFT, paths.CLAIMS, paths.PROBES)
    return [item for kind in kinds for item in store.objects.list(kind)]


def _read_records(store: TicketStore) -> tuple[dict[str, Record], dict[str, str]]:
    """All records, read from their own objects and not from the catalog, and the damaged ones."""
    keys = sorted(store.keys())
    found = dict(zip(keys, each(lambda key: _read(store, key), keys), strict=True))
    return (
        {key: record for key, record in found.items() if isinstance(record, Record)},
        {paths.record(key): fault for key, fault in found.items() if isinstance(fault, str)},
    )


def _read(store: TicketStore, key: str) -> Record | str | None:
    """The record, or what is wrong with it; None if it was deleted."""
    try:
        record = store.record(key)
    except NotInStore:
        return None
    except Damaged as error:
        return str(error)
    if record.key != key or _sha256(canonical(record.spec)) != key:
        return f"{paths.record(key)}: it is the record of another trial"
    return record


def _fault(store: TicketStore, path: str) -> str:
    """What is wrong with a record or an object that is named by its hash; empty if nothing."""
    if path.startswith(paths.RECORDS):
        found = _read(store, paths.stem(path))
        return found if isinstance(found, str) else ""
    try:
        if path.startswith(paths.TICKETS):
            store.ticket(paths.stem(path))
        elif path.startswith(paths.CATALOG):
            catalog.unpack(store.objects.get(path), where=path)
        elif not _sha256(store.objects.get(path)).startswith(paths.stem(path).partition("-")[2]):
            return f"{store.objects.where(path)}: damaged weights; {REPAIR}"
    except NotInStore:
        return ""  # deleted since it was listed
    except Damaged as error:
        return str(error)
    return ""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _referred(record: Record) -> Iterator[str]:
    if record.ticket:
        yield paths.ticket(record.ticket.sha256)
    if record.weights:
        yield record.weights.path


def _references(records: dict[str, Record]) -> dict[str, list[str]]:
    """Path of each object that records refer to, to their keys."""
    found: dict[str, list[str]] = {}
    for key, record in records.items():
        for path in _referred(record):
            found.setdefault(path, []).append(key)
    return found


def _unneeded(held: list[Listed], records: dict[str, Record]) -> tuple[list[Listed], list[Listed]]:
    """What nobody needs, and what trials left that are not committed.

    Of a committed trial nobody needs the checkpoint and the failures; its log stays.
    """
    referred = _references(records).keys()
    orphaned: list[Listed] = []
    abandoned: list[Listed] = []
    for item in held:
        if not item.path.startswith(LEFT):
            if item.path not in referred:
                orphaned.append(item)
        elif paths.owner(item.path) not in records:
            abandoned.append(item)
        elif not item.path.startswith(paths.LOGS):
            orphaned.append(item)
    return orphaned, abandoned
