"""What other runs are at is followed until it is done, or nobody is at it any more."""

from __future__ import annotations

import time

import pytest

from orchestrator.errors import StoreUnreachable
from orchestrator.store import lease_watch as elsewhere
from orchestrator.store.lease_watch import Lookout, News
from orchestrator.store.leases import Claims
from orchestrator.store.record import Record
from orchestrator.store.tickets import TicketStore

HEAD, CUT = "a" * 64, "b" * 64


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "PERIOD_S", 0.1)


def news(lookout: Lookout) -> list[News]:
    """The next ones."""
    deadline = time.monotonic() + 20
    while not (found := lookout.news()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_there_is_news_once_nobody_is_at_a_unit_or_all_of_it_is_done(store: TicketStore) -> None:
    lookout = Lookout(store, Claims(store.objects, "ours"))
    with Claims(store.objects, "theirs").held(HEAD):
        lookout.follow(HEAD, [HEAD, CUT])
        store.commit(Record(key=CUT, kind="cut", spec={}))
        time.sleep(0.5)
        assert not lookout.news()
    assert news(lookout) == [News(HEAD, (CUT,))]
    with Claims(store.objects, "theirs").held(HEAD):
        lookout.follow(HEAD, [HEAD, CUT])
        store.commit(Record(key=HEAD, kind="train", spec={}))
        assert news(lookout) == [News(HEAD, (HEAD, CUT))]


class Broken(TicketStore):
    """Away at the first question; at the second it fails as no store should."""

    asked = 0

    def has(self, key: str) -> bool:
        type(self).asked += 1
        if self.asked == 1:
            raise StoreUnreachable("the store is away")
        raise ZeroDivisionError("a defect")


def test_a_store_that_is_away_is_waited_for_and_a_defect_is_raised(store: TicketStore) -> None:
    """Else a run would wait for ever for news that nobody brings."""
    lookout = Lookout(Broken(store.objects), Claims(store.objects, "ours"))
    lookout.follow(HEAD, [HEAD])
    with pytest.raises(ZeroDivisionError):
        news(lookout)


class Away(TicketStore):
    def has(self, key: str) -> bool:
        raise StoreUnreachable("the store is away")


def test_a_store_that_stays_away_is_told(
    store: TicketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookout = Lookout(Away(store.objects), Claims(store.objects, "ours"))
    lookout.follow(HEAD, [HEAD])
    time.sleep(0.5)
    assert lookout.news() == []
    monkeypatch.setattr(elsewhere, "AWAY_S", 0.2)
    with pytest.raises(StoreUnreachable):
        news(lookout)
