from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.errors import NotInStore, StoreUnreachable
from orchestrator.store.s3 import S3Objects, StoreAddress


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 20_000])
def test_bytes_come_back_as_they_went_in(objects: S3Objects, data: bytes) -> None:
    assert objects.put_new("a/b.bin", data)
    assert objects.get("a/b.bin") == data


def test_the_first_of_two_writers_wins(objects: S3Objects) -> None:
    assert objects.put_new("once", b"first")
    assert not objects.put_new("once", b"second")
    assert objects.get("once") == b"first"


def test_put_replaces(objects: S3Objects) -> None:
    objects.put("again", b"first")
    objects.put("again", b"second")
    assert objects.get("again") == b"second"


def test_what_is_not_there(objects: S3Objects) -> None:
    with pytest.raises(NotInStore, match="nothing/here"):
        objects.get("nothing/here")
    assert objects.stat("nothing/here") is None
    assert list(objects.list("nothing/")) == []
    objects.delete("nothing/here")


def test_stat_and_listing_agree(objects: S3Objects) -> None:
    objects.put("kind/one", b"12345")
    (listed,) = objects.list("kind/")
    stat = objects.stat("kind/one")
    assert stat is not None
    assert (listed.path, listed.size, listed.etag) == (stat.path, stat.size, stat.etag)
    assert listed.size == 5
    assert abs(datetime.now(UTC) - listed.modified) < timedelta(minutes=1)


def test_the_etag_tells_contents_apart(objects: S3Objects) -> None:
    def etag(data: bytes) -> str:
        objects.put("changing", data)
        stat = objects.stat("changing")
        assert stat is not None
        return stat.etag

    assert etag(b"one") != etag(b"two")


def test_a_listing_is_whole_sorted_and_within_its_prefix(objects: S3Objects) -> None:
    names = [f"many/{number:04d}" for number in range(12)]
    for name in [*reversed(names), "manyfold", "other/0001"]:
        objects.put(name, b"")
    assert [item.path for item in objects.list("many/")] == names


def test_deleted_is_gone_and_can_be_written_anew(objects: S3Objects) -> None:
    objects.put_new("once", b"first")
    objects.delete("once")
    assert objects.stat("once") is None
    assert objects.put_new("once", b"second")


def test_a_sound_server_passes_the_probe_and_keeps_nothing_of_it(objects: S3Objects) -> None:
    objects.probe()
    assert list(objects.list("")) == []


def test_a_missing_bucket_is_named(address: StoreAddress) -> None:
    elsewhere = S3Objects(StoreAddress(url="s3://mistyped/x", endpoint=address.endpoint))
    with pytest.raises(StoreUnreachable, match=r"s3://mistyped/.*no such bucket.*store\.url"):
        elsewhere.probe()
