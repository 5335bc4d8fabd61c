"""The catalog: many records in few Parquet files, so that 100,000 of them are read in seconds.

A cache and nothing more. Records never change, so a segment is right for ever; it is named by its
own hash; several writers may each add one, and losing or deleting any costs only time. Whether a
trial exists is asked of its record, never of the catalog. Columns: `key`, `kind`, `model`, `task`,
`level`, `ticket`, `kept`, `total`, `score` for queries from outside; `etag`; `record`, the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import Damaged, NotInStore, StoreError
from orchestrator.store import paths
from orchestrator.store.objects import Listed, ObjectStore
from orchestrator.store.record import Record, decode, encode

WORTHWHILE = 200
"""Records outside of any segment before a new one is written: about a second of single reads."""
GROUP_ROWS = 5_000
"""Rows that are read at once: 10 MB of records."""
GROWTH = 2
"""A new segment takes in those that are less than so many times as large: of n records there are
then at most log2(n / WORTHWHILE) segments, and each record was written as often."""

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
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=["kind", "model", "task"],
        row_group_size=GROUP_ROWS,
    )
    return bytes(buffer.getvalue())


@dataclass(slots=True)
class Segment:
    """One file of the catalog. It stays compressed, and records are turned into objects when they
    are asked for: a store may hold other sweeps, and an object takes ten times the room."""

    where: str
    file: pq.ParquetFile
    etags: Mapping[str, str]
    """By key, in the file's order: the ETag that the record's object had."""
    places: Mapping[str, tuple[int, int]]
    """By key: row group, and row in it."""
    _open: tuple[int, pa.ChunkedArray] | None = None
    """The row group that was read last, and its records."""

    def entry(self, key: str) -> Entry:
        """Cheap where keys are asked for in their order.

        Raises Damaged if what stands there is no record of that key.
        """
        group, row = self.places[key]
        if self._open is None or self._open[0] != group:
            self._open = group, self.file.read_row_group(group, columns=["record"])["record"]
        where = f"{self.where} {key}"
        record = decode(self._open[1][row].as_py(), where=where)
        if record.key != key:
            raise Damaged(f"{where}: it is the record of another trial")
        return Entry(self.etags[key], record)


def unpack(data: bytes, *, where: str) -> Segment:
    """A segment from its file; raises Damaged if it lacks the hash that names it."""
    if hashlib.sha256(data).hexdigest() != paths.stem(where):
        raise Damaged(f"{where}: damaged catalog file; delete it, it is rebuilt when needed")
    file = pq.ParquetFile(pa.BufferReader(data))
    etags: dict[str, str] = {}
    places: dict[str, tuple[int, int]] = {}
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["key", "etag"])
        keys = table["key"].to_pylist()
        etags |= zip(keys, table["etag"].to_pylist(), strict=True)
        places |= ((key, (group, row)) for row, key in enumerate(keys))
    return Segment(where, file, etags, places)


class Catalog:
    """The segments of one store; keeps what it has read. May be shared by threads."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._lock = Lock()
        self._segments: dict[str, Segment] = {}
        self._known: dict[str, Entry] = {}
        """Records as objects: all that were asked for."""
        self._loose: set[str] = set()
        """Keys of those that no segment holds."""

    def saw(self, data: bytes, record: Record) -> None:
        """Remember a record that was read by itself.

        Its ETag is taken to be the MD5 of its bytes, as that of most objects on most servers is;
        where it is not, the record is read again when it is listed.
        """
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with self._lock:
            self._remember({record.key: Entry(f'"{etag}"', record)})

    def records(self, listed: Mapping[str, Listed], wanted: Iterable[str]) -> dict[str, Record]:
        """Those of the wanted records that are known as they are listed now, by key."""
        with self._lock:
            self._refresh()
            current = self._current(sorted(wanted), listed)
            self._known |= current
            return {key: entry.record for key, entry in current.items()}

    def add(self, records: Mapping[str, Record], listed: Mapping[str, Listed]) -> None:
        """Remember records just read from the listed objects; write them out when they are many.

        A store that is full, or that these credentials may only read, goes without.
        """
        with self._lock:
            self._remember({key: Entry(listed[key].etag, one) for key, one in records.items()})
            new = self._current(self._loose, listed)
            if len(new) >= WORTHWHILE:
                self._write(new, self._absorbed(new, listed))

    def _remember(self, entries: Mapping[str, Entry]) -> None:
        self._known |= entries
        self._loose.update(entries)

    def _write(self, entries: Mapping[str, Entry], merged: Iterable[str]) -> None:
        data = pack(entries.values())
        path = paths.catalog(hashlib.sha256(data).hexdigest())
        try:
            self._objects.put_new(path, data)
            for old in merged:
                if old != path:
                    self._objects.delete(old)
        except StoreError:
            return
        self._segments[path] = unpack(data, where=path)
        self._loose.difference_update(entries)

    def _absorbed(self, new: dict[str, Entry], listed: Mapping[str, Listed]) -> list[str]:
        """Takes into `new` what the segments hold that are not much larger, the smallest first;
        their paths."""
        merged = []
        for path, segment in sorted(self._segments.items(), key=lambda item: len(item[1].etags)):
            if len(segment.etags) >= GROWTH * len(new):
                break
            merged.append(path)
            new |= self._current(segment.etags, listed)
        return merged

    def _current(self, keys: Iterable[str], listed: Mapping[str, Listed]) -> dict[str, Entry]:
        """What is known of `keys` as they are listed now."""
        there = ((key, listed[key].etag) for key in keys if key in listed)
        found = {key: self._find(key, etag) for key, etag in there}
        return {key: entry for key, entry in found.items() if entry is not None}

    def _find(self, key: str, etag: str) -> Entry | None:
        """A record that was deleted and made again has another ETag: only its new form counts."""
        entry = self._known.get(key)
        if entry is not None and entry.etag == etag:
            return entry
        for segment in self._segments.values():
            if segment.etags.get(key) == etag:
                with suppress(Damaged):  # written by another version: the record itself is there
                    return segment.entry(key)
        return None

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
