"""Work items of other runs are watched until they are committed or their lease ends."""

from __future__ import annotations

import time

import pytest

from orchestrator.errors import StoreUnreachable
from orchestrator.store import lease_watch
from orchestrator.store.lease_watch import LeaseEvent, LeaseWatcher
from orchestrator.store.leases import Leases
from orchestrator.store.record import Record
from orchestrator.store.tickets import TrialStore
from tests.support.waits import wait_for

TRAIN, PRUNE = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def fast_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_watch, "LEASE_POLL_S", 0.1)


def next_events(watcher: LeaseWatcher) -> list[LeaseEvent]:
    return list(wait_for(watcher.events))


def test_an_event_follows_when_the_lease_ends_or_all_trials_are_committed(
    store: TrialStore,
) -> None:
    watcher = LeaseWatcher(store, Leases(store.objects, "this"))
    with Leases(store.objects, "other").acquire(TRAIN):
        watcher.watch(TRAIN, [TRAIN, PRUNE])
        store.commit(Record(key=PRUNE, kind="prune", spec={}))
        time.sleep(0.5)
        assert not watcher.events()
    assert next_events(watcher) == [LeaseEvent(TRAIN, (PRUNE,))]
    with Leases(store.objects, "other").acquire(TRAIN):
        watcher.watch(TRAIN, [TRAIN, PRUNE])
        store.commit(Record(key=TRAIN, kind="train", spec={}, scores={"score": 71.0}))
        assert next_events(watcher) == [LeaseEvent(TRAIN, (TRAIN, PRUNE), {TRAIN: 71.0})]


class BrokenStore(TrialStore):
    """Unreachable on the first request; raises an unrelated error on the second."""

    requests = 0

    def has(self, key: str) -> bool:
        type(self).requests += 1
        if self.requests == 1:
            raise StoreUnreachable("the store is unreachable")
        raise ZeroDivisionError("a defect")


def test_an_outage_is_tolerated_but_a_defect_is_raised(store: TrialStore) -> None:
    """Otherwise a run would wait forever for events."""
    watcher = LeaseWatcher(BrokenStore(store.objects), Leases(store.objects, "this"))
    watcher.watch(TRAIN, [TRAIN])
    with pytest.raises(ZeroDivisionError):
        next_events(watcher)


class UnreachableStore(TrialStore):
    def has(self, key: str) -> bool:
        raise StoreUnreachable("the store is unreachable")


def test_a_long_outage_is_raised(store: TrialStore, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = LeaseWatcher(UnreachableStore(store.objects), Leases(store.objects, "this"))
    watcher.watch(TRAIN, [TRAIN])
    time.sleep(0.5)
    assert watcher.events() == []
    monkeypatch.setattr(lease_watch, "MAX_OUTAGE_S", 0.2)
    with pytest.raises(StoreUnreachable):
        next_events(watcher)
