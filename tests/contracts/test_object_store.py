from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.errors import NotInStore, StoreUnreachable
from orchestrator.store.s3 import S3ObjectStore, StoreAddress


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 20_000])
def test_an_object_is_read_as_it_was_written(objects: S3ObjectStore, data: bytes) -> None:
    assert objects.put_new("a/b.bin", data)
    assert objects.get("a/b.bin") == data


def test_the_first_of_two_writers_wins(objects: S3ObjectStore) -> None:
    assert objects.put_new("once", b"first")
    assert not objects.put_new("once", b"second")
    assert objects.get("once") == b"first"


def test_put_replaces(objects: S3ObjectStore) -> None:
    objects.put("again", b"first")
    objects.put("again", b"second")
    assert objects.get("again") == b"second"


def test_a_missing_object(objects: S3ObjectStore) -> None:
    with pytest.raises(NotInStore, match="nothing/here"):
        objects.get("nothing/here")
    assert objects.stat("nothing/here") is None
    assert list(objects.list("nothing/")) == []
    objects.delete("nothing/here")


def test_stat_and_listing_agree(objects: S3ObjectStore) -> None:
    objects.put("kind/one", b"12345")
    (listed,) = objects.list("kind/")
    stat = objects.stat("kind/one")
    assert stat is not None
    assert (listed.path, listed.size, listed.etag) == (stat.path, stat.size, stat.etag)
    assert listed.size == 5
    assert abs(datetime.now(UTC) - listed.modified) < timedelta(minutes=1)


def test_different_contents_have_different_etags(objects: S3ObjectStore) -> None:
    def etag(data: bytes) -> str:
        objects.put("changing", data)
        stat = objects.stat("changing")
        assert stat is not None
        return stat.etag

    assert etag(b"one") != etag(b"two")


def test_a_listing_is_complete_sorted_and_within_its_prefix(objects: S3ObjectStore) -> None:
    names = [f"many/{number:04d}" for number in range(12)]
    for name in [*reversed(names), "manyfold", "other/0001"]:
        objects.put(name, b"")
    assert [item.path for item in objects.list("many/")] == names


def test_a_deleted_object_is_gone_and_can_be_created_again(objects: S3ObjectStore) -> None:
    objects.put_new("once", b"first")
    objects.delete("once")
    assert objects.stat("once") is None
    assert objects.put_new("once", b"second")


def test_a_working_server_passes_the_probe_which_leaves_no_object(objects: S3ObjectStore) -> None:
    objects.probe()
    assert list(objects.list("")) == []


def test_a_missing_bucket_is_named(address: StoreAddress) -> None:
    objects = S3ObjectStore(StoreAddress(url="s3://mistyped/x", endpoint=address.endpoint))
    with pytest.raises(StoreUnreachable, match=r"s3://mistyped/.*no such bucket.*store\.url"):
        objects.probe()
