"""Claims on every kind of server: one run at a time, and the dead hold nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from threading import Barrier

import pytest

from orchestrator.store import leases as claims
from orchestrator.store import paths
from orchestrator.store.leases import Claims
from orchestrator.store.s3 import S3Objects

KEY = "k" * 64


@pytest.fixture
def short_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers date objects to the second, and a busy machine holds this process up."""
    monkeypatch.setattr(claims, "ALIVE", timedelta(seconds=6))
    monkeypatch.setattr(claims, "RENEWED_S", 0.5)


@contextmanager
def abandoned(objects: S3Objects, run: str) -> Iterator[None]:
    """A claim whose holder died: nobody renews it, nobody lets go of it."""
    objects.put_new(paths.claim(KEY, 0), b'{"run": "%s", "host": "gone"}' % run.encode())
    yield


def test_a_unit_is_held_by_one_run_at_a_time(objects: S3Objects) -> None:
    ours, theirs = Claims(objects, "ours"), Claims(objects, "theirs")
    with ours.held(KEY) as held:
        assert held
        assert theirs.is_busy(KEY)
        assert not ours.is_busy(KEY)
        assert [(key, holder.run) for key, holder in theirs.alive().items()] == [(KEY, "ours")]
        with theirs.held(KEY) as second:
            assert not second
        assert theirs.is_busy(KEY), "who did not get the claim must not release it"
    assert not theirs.is_busy(KEY)
    with theirs.held(KEY) as second:
        assert second
    assert not list(objects.list(paths.CLAIMS))


@pytest.mark.parametrize("address", ["seaweed"], indirect=True)  # moto writes without a lock
def test_of_many_that_try_at_once_one_gets_it(objects: S3Objects) -> None:
    start, tried = Barrier(6), Barrier(6)

    def take(number: int) -> bool:
        start.wait()
        with Claims(objects, str(number)).held(KEY) as held:
            tried.wait()
            return held

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(take, range(6))) == [False] * 5 + [True]


def test_a_run_takes_over_what_a_dead_worker_of_its_own_held(objects: S3Objects) -> None:
    with abandoned(objects, "ours"), Claims(objects, "ours").held(KEY) as held:
        assert held
    assert not list(objects.list(paths.CLAIMS))


def test_a_dead_claim_is_taken_over_by_one(objects: S3Objects, short_lived: None) -> None:
    with abandoned(objects, "dead"):
        time.sleep(7.5)
        ours, theirs = Claims(objects, "ours"), Claims(objects, "theirs")
        assert not ours.is_busy(KEY)
        assert ours.alive() == {}
        with ours.held(KEY) as held, theirs.held(KEY) as second:
            assert (held, second) == (True, False)
    assert not list(objects.list(paths.CLAIMS)), "the dead claim goes with its follower's"


def test_a_claim_lives_as_long_as_it_is_held(objects: S3Objects, short_lived: None) -> None:
    with Claims(objects, "ours").held(KEY):
        time.sleep(7.5)
        assert Claims(objects, "theirs").is_busy(KEY)


def test_what_is_no_claim_of_ours_holds_nothing(objects: S3Objects) -> None:
    objects.put_new(paths.claim(KEY, 0), b"something else")
    with Claims(objects, "ours").held(KEY) as held:
        assert held
