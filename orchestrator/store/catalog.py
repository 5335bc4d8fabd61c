"""The catalog: many records in few Parquet files, so that 100,000 records are read in seconds.

The catalog is only a cache. Records never change, so a segment stays valid forever. A segment is
named by its own hash; several writers may each add one, and losing or deleting any costs only time.
Whether a trial exists is decided by its record, never by the catalog. Columns for external queries:
`key`, `kind`, `model`, `task`, `level`, `ticket`, `kept`, `total`, `score`. The columns `etag` and
`record` hold the record object's ETag and the complete record.
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
from orchestrator.store.objects import ObjectInfo, ObjectStore
from orchestrator.store.record import Record, decode_record, encode_record

MIN_SEGMENT_RECORDS = 200
"""Records outside of any segment before a new one is written: about a second of single reads."""
ROW_GROUP_SIZE = 5_000
"""Rows that are read at once: 10 MB of records."""
MERGE_RATIO = 2
"""A new segment absorbs segments less than this many times as large. For n records there are then
at most log2(n / MIN_SEGMENT_RECORDS) segments, and each record is written at most that often."""

CATALOG_SCHEMA = pa.schema(
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
class CatalogEntry:
    """A record, and the ETag that its object had when it was read."""

    etag: str
    record: Record


def encode_segment(entries: Iterable[CatalogEntry]) -> bytes:
    """Return a segment as a Parquet file in memory, sorted by key."""
    rows = [_row(entry) for entry in sorted(entries, key=lambda entry: entry.record.key)]
    buffer = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=CATALOG_SCHEMA)
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=["kind", "model", "task"],
        row_group_size=ROW_GROUP_SIZE,
    )
    return bytes(buffer.getvalue())


@dataclass(slots=True)
class Segment:
    """One file of the catalog.

    It stays compressed, and records are decoded on request: a store may hold other sweeps, and a
    decoded record takes ten times the memory.
    """

    path: str
    file: pq.ParquetFile
    etags: Mapping[str, str]
    """The ETag of each record's object by key, in the file's order."""
    rows: Mapping[str, tuple[int, int]]
    """The row group and the row in it, by key."""
    _last_group: tuple[int, pa.ChunkedArray] | None = None
    """The row group that was read last, and its records."""

    def entry(self, key: str) -> CatalogEntry:
        """Return the entry of `key`. Cheap if keys are requested in the file's order.

        Raises:
            Damaged: the row does not hold a record of that key.
        """
        group, row = self.rows[key]
        if self._last_group is None or self._last_group[0] != group:
            records = self.file.read_row_group(group, columns=["record"])["record"]
            self._last_group = group, records
        where = f"{self.path} {key}"
        record = decode_record(self._last_group[1][row].as_py(), where=where)
        if record.key != key:
            raise Damaged(f"{where}: this is the record of another trial")
        return CatalogEntry(self.etags[key], record)


def decode_segment(data: bytes, *, where: str) -> Segment:
    """Return the segment in a file. Raises Damaged if the file does not have the hash in its
    name."""
    if hashlib.sha256(data).hexdigest() != paths.stem(where):
        raise Damaged(f"{where}: damaged catalog file; delete it, it is rebuilt when needed")
    file = pq.ParquetFile(pa.BufferReader(data))
    etags: dict[str, str] = {}
    rows: dict[str, tuple[int, int]] = {}
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["key", "etag"])
        keys = table["key"].to_pylist()
        etags |= zip(keys, table["etag"].to_pylist(), strict=True)
        rows |= ((key, (group, row)) for row, key in enumerate(keys))
    return Segment(where, file, etags, rows)


class Catalog:
    """The segments of one store, with a cache of decoded records. Thread-safe."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._lock = Lock()
        self._segments: dict[str, Segment] = {}
        self._entries: dict[str, CatalogEntry] = {}
        """Decoded records: all that were requested."""
        self._unsegmented: set[str] = set()
        """Keys of records that are in no segment."""

    def remember(self, data: bytes, record: Record) -> None:
        """Cache a record that was read from its own object.

        Its ETag is assumed to be the MD5 of its bytes, which holds for most objects on most
        servers. Where it does not, the record is read again when it is listed.
        """
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with self._lock:
            self._remember({record.key: CatalogEntry(f'"{etag}"', record)})

    def records(self, listed: Mapping[str, ObjectInfo], wanted: Iterable[str]) -> dict[str, Record]:
        """Return the wanted records that are known in their currently listed version, by key."""
        with self._lock:
            self._refresh()
            current = self._current(sorted(wanted), listed)
            self._entries |= current
            return {key: entry.record for key, entry in current.items()}

    def add(self, records: Mapping[str, Record], listed: Mapping[str, ObjectInfo]) -> None:
        """Cache records just read from the listed objects; write a segment if there are many.

        If the store is full or read-only for these credentials, no segment is written.
        """
        with self._lock:
            self._remember(
                {key: CatalogEntry(listed[key].etag, record) for key, record in records.items()}
            )
            new = self._current(self._unsegmented, listed)
            if len(new) >= MIN_SEGMENT_RECORDS:
                self._write_segment(new, self._absorb_segments(new, listed))

    def _remember(self, entries: Mapping[str, CatalogEntry]) -> None:
        self._entries |= entries
        self._unsegmented.update(entries)

    def _write_segment(self, entries: Mapping[str, CatalogEntry], absorbed: Iterable[str]) -> None:
        data = encode_segment(entries.values())
        path = paths.catalog(hashlib.sha256(data).hexdigest())
        try:
            self._objects.put_new(path, data)
            for old_path in absorbed:
                if old_path != path:
                    self._objects.delete(old_path)
        except StoreError:
            return
        self._segments[path] = decode_segment(data, where=path)
        self._unsegmented.difference_update(entries)

    def _absorb_segments(
        self, new: dict[str, CatalogEntry], listed: Mapping[str, ObjectInfo]
    ) -> list[str]:
        """Add to `new` the records of segments that are not much larger, the smallest first.

        Returns the paths of these segments.
        """
        absorbed = []
        for path, segment in sorted(self._segments.items(), key=lambda item: len(item[1].etags)):
            if len(segment.etags) >= MERGE_RATIO * len(new):
                break
            absorbed.append(path)
            new |= self._current(segment.etags, listed)
        return absorbed

    def _current(
        self, keys: Iterable[str], listed: Mapping[str, ObjectInfo]
    ) -> dict[str, CatalogEntry]:
        """Return the known entries of `keys` whose ETag is the listed one."""
        etags = ((key, listed[key].etag) for key in keys if key in listed)
        entries = {key: self._entry(key, etag) for key, etag in etags}
        return {key: entry for key, entry in entries.items() if entry is not None}

    def _entry(self, key: str, etag: str) -> CatalogEntry | None:
        """Return the entry with this ETag; None if it is not known. A record that was deleted and
        written again has another ETag: only the new one counts."""
        entry = self._entries.get(key)
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
                self._segments[path] = decode_segment(self._objects.get(path), where=path)
            except (NotInStore, Damaged):
                continue  # merged in the meantime, or unusable: the records themselves are there


def _row(entry: CatalogEntry) -> dict[str, object]:
    record = entry.record
    return {
        "key": record.key,
        "kind": record.kind,
        "model": record.labels.get("model"),
        "task": record.labels.get("task"),
        "level": record.labels.get("level"),
        "ticket": record.ticket and record.ticket.sha256,
        "kept": record.ticket and record.ticket.kept,
        "total": record.ticket and record.ticket.total,
        "score": record.scores.get("score"),
        "etag": entry.etag,
        "record": encode_record(record),
    }
