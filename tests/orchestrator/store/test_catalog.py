"""The catalog is a cache: with it, without it, or with a damaged one, records are the same."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from hashlib import sha256

import pyarrow.parquet as pq
import pytest

from orchestrator.errors import StoreFull
from orchestrator.plan.keys import canonical_json
from orchestrator.store import catalog, paths
from orchestrator.store.maintenance import verify_store
from orchestrator.store.record import Record, TicketRef
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MIN_SEGMENT_RECORDS", 3)


def commit(store: TrialStore, *seeds: int) -> dict[str, Record]:
    records = {}
    for seed in seeds:
        spec = {"kind": "train", "seed": seed}
        key = sha256(canonical_json(spec)).hexdigest()
        records[key] = Record(
            key=key,
            kind="train",
            spec=spec,
            labels={"model": "uniter-tiny", "task": "easy_vqa", "level": seed},
            ticket=TicketRef(sha256="c" * 64, kept=1, total=2, bytes=3),
            scores={"score": float(seed)},
        )
        store.commit(records[key])
    return records


def segments(store: TrialStore) -> list[str]:
    return [item.path for item in store.objects.list(paths.CATALOG)]


def test_records_are_the_same_with_and_without_a_catalog(store: TrialStore) -> None:
    expected = commit(store, 1, 2)
    assert store.records() == expected
    assert segments(store) == []
    expected |= commit(store, 3, 4)
    assert TrialStore(store.objects).records() == expected
    assert len(segments(store)) == 1
    assert TrialStore(store.objects).records() == expected


def test_segments_are_merged_and_stay_few(store: TrialStore) -> None:
    expected: dict[str, Record] = {}
    for first in range(0, 36, 3):
        expected |= commit(store, first, first + 1, first + 2)
        assert store.records() == expected
        assert len(segments(store)) <= 1 + math.log2(len(expected) / catalog.MIN_SEGMENT_RECORDS)
    assert TrialStore(store.objects).records() == expected


def test_a_record_that_is_deleted_and_written_again_is_read_anew(store: TrialStore) -> None:
    records = commit(store, 1, 2, 3)
    store.records()
    key = min(records)
    changed = replace(records[key], scores={"score": 99.0})
    store.objects.delete(paths.record(key))
    for reader in (store, TrialStore(store.objects)):
        assert key not in reader.records()
    store.commit(changed)
    for reader in (store, TrialStore(store.objects)):
        assert reader.records()[key] == changed


def test_a_damaged_segment_costs_only_time(store: TrialStore) -> None:
    expected = commit(store, 1, 2, 3)
    store.records()
    (segment,) = segments(store)
    store.objects.put(segment, b"garbage")
    assert set(verify_store(store).damaged) == {segment}
    assert TrialStore(store.objects).records() == expected


class FullObjectStore(S3ObjectStore):
    """Refuses new objects."""

    def put_new(self, path: str, data: bytes) -> bool:
        raise StoreFull(f"{path}: no space left")


def test_a_segment_cannot_return_one_record_as_another(store: TrialStore) -> None:
    """A segment is named by the hash of any content, so every user with write access can forge
    one."""
    expected = commit(store, 1, 2, 3)
    store.records()
    (path,) = segments(store)
    table = pq.read_table(io.BytesIO(store.objects.get(path)))
    swapped = table.set_column(
        table.schema.get_field_index("record"), "record", table["record"].take([1, 2, 0])
    )
    forged = io.BytesIO()
    pq.write_table(swapped, forged)
    store.objects.delete(path)
    store.objects.put(paths.catalog(sha256(forged.getvalue()).hexdigest()), forged.getvalue())
    assert TrialStore(store.objects).records() == expected


def test_single_records_are_not_read_again(address: StoreAddress) -> None:
    class CountingObjectStore(S3ObjectStore):
        reads = 0

        def get(self, path: str) -> bytes:
            self.reads += path.startswith(paths.RECORDS)
            return super().get(path)

    objects = CountingObjectStore(address)
    store = TrialStore(objects)
    expected = commit(store, 1, 2, 3, 4)
    for key in expected:
        store.record(key)
    assert store.records() == expected
    assert objects.reads == 4
    assert TrialStore(objects).records() == expected
    assert objects.reads == 4


def test_a_store_that_accepts_no_catalog_can_still_be_read(
    store: TrialStore, address: StoreAddress
) -> None:
    expected = commit(store, 1, 2, 3)
    full = TrialStore(FullObjectStore(address))
    assert full.records() == expected
    assert full.records() == expected
    assert segments(store) == []


def test_the_catalog_can_be_queried_as_parquet(store: TrialStore) -> None:
    commit(store, 5, 6, 7)
    store.records()
    table = pq.read_table(io.BytesIO(store.objects.get(segments(store)[0])))
    assert sorted(table["score"].to_pylist()) == [5.0, 6.0, 7.0]
    assert set(table["task"].to_pylist()) == {"easy_vqa"}
