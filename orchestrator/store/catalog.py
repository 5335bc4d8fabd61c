"""The catalog: many records in few Parquet files, so that 10,000 of them are read in seconds.

A cache and nothing more. Records never change, so a segment is right for ever; it is named by its
own hash; several writers may each add one, and losing or deleting any costs only time. Whether a
trial exists is asked of its record, never of the catalog. Columns: `key`, `kind`, `model`, `task`,
`level`, `ticket`, `kept`, `total`, `score` for queries from outside; `etag`; `record`, the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import Damaged, NotInStore, StoreError
from orchestrator.store import paths
from orchestrator.store.objects import Listed, ObjectStore
from orchestrator.store.record import Record, decode, encode

WORTHWHILE = 200
"""Records outside of any segment before a new one is written: about a second of single reads."""
FEW = 8
"""Segments beyond which a new one takes in the old ones."""

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("kind", pa.string()),
        ("model", pa.string()),
        ("task", pa.string()),
        ("level", pa.int32()),
        ("ticket", pa.string()),
        ("kept", pa.int64()),
        ("total", pa.int64()),
        ("score", pa.float64()),
        ("etag", pa.string()),
        ("record", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it was read, and the ETag that its object had then."""

    etag: str
    record: Record


def pack(entries: Iterable[Entry]) -> bytes:
    """A segment as a Parquet file in memory, sorted by key."""
    rows = [_row(entry) for entry in sorted(entries, key=lambda entry: entry.record.key)]
    buffer = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, buffer, compression="zstd", use_dictionary=["kind", "model", "task"])
    return bytes(buffer.getvalue())


def unpack(data: bytes, *, where: str) -> dict[str, Entry]:
    """The entries of a segment by key; raises Damaged if it lacks the hash that names it."""
    if hashlib.sha256(data).hexdigest() != paths.stem(where):
        raise Damaged(f"{where}: damaged catalog file; delete it, it is rebuilt when needed")
    table = pq.read_table(pa.BufferReader(data), columns=["key", "etag", "record"])
    keys, etags, records = (column.to_pylist() for column in table.columns)
    return {
        key: Entry(etag, decode(record, where=f"{where} {key}"))
        for key, etag, record in zip(keys, etags, records, strict=True)
    }


class Catalog:
    """The segments of one store; keeps what it has read."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._segments: dict[str, dict[str, Entry]] = {}
        self._loose: dict[str, Entry] = {}

    def records(self, listed: Mapping[str, Listed]) -> dict[str, Record]:
        """The records among the listed ones that are known as they are now, by key."""
        self._refresh()
        return {key: entry.record for key, entry in self._current(listed).items()}

    def add(self, records: Mapping[str, Record], listed: Mapping[str, Listed]) -> None:
        """Remember records just read from the listed objects; write them out when they are many.

        A store that is full, or that these credentials may only read, goes without.
        """
        self._loose |= {key: Entry(listed[key].etag, record) for key, record in records.items()}
        if len(self._loose) < WORTHWHILE:
            return
        merged = tuple(self._segments) if len(self._segments) >= FEW else ()
        entries = self._current(listed) if merged else self._loose
        data = pack(entries.values())
        path = paths.catalog(hashlib.sha256(data).hexdigest())
        try:
            self._objects.put_new(path, data)
            for old in merged:
                if old != path:
                    self._objects.delete(old)
        except StoreError:
            return
        self._segments[path] = dict(entries)
        self._loose = {}

    def _current(self, listed: Mapping[str, Listed]) -> dict[str, Entry]:
        """A record that was deleted and made again has another ETag: only its new form counts."""
        return {
            key: entry
            for entries in (*self._segments.values(), self._loose)
            for key, entry in entries.items()
            if key in listed and listed[key].etag == entry.etag
        }

    def _refresh(self) -> None:
        present = {item.path for item in self._objects.list(paths.CATALOG)}
        for path in self._segments.keys() - present:
            del self._segments[path]
        for path in sorted(present - self._segments.keys()):
            try:
                self._segments[path] = unpack(self._objects.get(path), where=path)
            except (NotInStore, Damaged):
                continue  # merged away meanwhile, or useless: the records themselves are there


def _row(entry: Entry) -> dict[str, object]:
    record = entry.record
    return {
        "key": record.key,
        "kind": record.kind,
        "model": record.about.get("model"),
        "task": record.about.get("task"),
        "level": record.about.get("level"),
        "ticket": record.ticket and record.ticket.sha256,
        "kept": record.ticket and record.ticket.kept,
        "total": record.ticket and record.ticket.total,
        "score": record.scores.get("score"),
        "etag": entry.etag,
        "record": encode(record),
    }
