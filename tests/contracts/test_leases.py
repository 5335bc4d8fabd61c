"""Leases on every kind of server: one run at a time, and expired leases block no run."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest

from orchestrator.store import leases, paths
from orchestrator.store.leases import Leases
from orchestrator.store.s3 import S3ObjectStore

KEY = "k" * 64


@pytest.fixture
def short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers date objects to the second, and a busy machine may delay this process."""
    monkeypatch.setattr(leases, "LEASE_TTL", timedelta(seconds=6))
    monkeypatch.setattr(leases, "RENEW_INTERVAL_S", 0.5)


def abandon_lease(objects: S3ObjectStore, run: str) -> None:
    """Create a lease whose holder was killed: it is neither renewed nor released."""
    objects.put_new(paths.lease(KEY, 0), b'{"run": "%s", "host": "gone"}' % run.encode())


def test_an_item_is_leased_to_one_run_at_a_time(objects: S3ObjectStore) -> None:
    first, second = Leases(objects, "first"), Leases(objects, "second")
    with first.acquire(KEY) as acquired:
        assert acquired
        assert second.leased_by_other(KEY)
        assert not first.leased_by_other(KEY)
        assert [(key, holder.run) for key, holder in second.active().items()] == [(KEY, "first")]
        with second.acquire(KEY) as acquired_by_second:
            assert not acquired_by_second
        assert second.leased_by_other(KEY), "a run that did not get the lease must not release it"
    assert not second.leased_by_other(KEY)
    with second.acquire(KEY) as acquired_by_second:
        assert acquired_by_second
    assert not list(objects.list(paths.LEASES))


@pytest.mark.parametrize("address", ["seaweed"], indirect=True)  # moto writes without a lock
def test_one_of_many_concurrent_runs_acquires_the_lease(objects: S3ObjectStore) -> None:
    start, finish = Barrier(6), Barrier(6)

    def acquire(number: int) -> bool:
        start.wait()
        with Leases(objects, str(number)).acquire(KEY) as acquired:
            finish.wait()
            return acquired

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(acquire, range(6))) == [False] * 5 + [True]


def test_a_run_takes_over_the_lease_of_its_own_dead_worker(objects: S3ObjectStore) -> None:
    abandon_lease(objects, "same")
    with Leases(objects, "same").acquire(KEY) as acquired:
        assert acquired
    assert not list(objects.list(paths.LEASES))


def test_an_expired_lease_is_taken_over_by_one_run(
    objects: S3ObjectStore, short_lived: None
) -> None:
    abandon_lease(objects, "dead")
    time.sleep(7.5)
    first, second = Leases(objects, "first"), Leases(objects, "second")
    assert not first.leased_by_other(KEY)
    assert first.active() == {}
    with first.acquire(KEY) as acquired, second.acquire(KEY) as acquired_by_second:
        assert (acquired, acquired_by_second) == (True, False)
    assert not list(objects.list(paths.LEASES)), "the expired lease is deleted with its successor"


def test_a_lease_stays_active_while_it_is_held(objects: S3ObjectStore, short_lived: None) -> None:
    with Leases(objects, "first").acquire(KEY):
        time.sleep(7.5)
        assert Leases(objects, "second").leased_by_other(KEY)


def test_an_object_that_is_not_a_lease_blocks_no_run(objects: S3ObjectStore) -> None:
    objects.put_new(paths.lease(KEY, 0), b"something else")
    with Leases(objects, "first").acquire(KEY) as acquired:
        assert acquired
