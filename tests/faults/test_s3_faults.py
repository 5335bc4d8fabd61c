"""Each way in which an S3 server or the road to it fails, against the store alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.errors import Damaged, StoreUnreachable
from orchestrator.store import paths
from orchestrator.store.maintenance import repair, verify
from orchestrator.store.s3 import Patience, S3Objects, StoreAddress
from orchestrator.store.tickets import TicketStore, each
from tests.support.records import make_record, make_ticket
from tests.support.s3_proxy import PASSING, Armed, Fault, Proxy, serving

HURRIED = Patience(connect=1.0, read=1.0, deadline=8.0)
BRIEF = Patience(connect=1.0, read=1.0, deadline=8.0, attempts=2)


@contextmanager
def proxied(
    address: StoreAddress, name: str = "one", patience: Patience = BRIEF
) -> Iterator[tuple[Proxy, TicketStore]]:
    """An empty store behind a proxy."""
    with serving(address.endpoint) as (proxy, endpoint):
        behind = StoreAddress(url=f"{address.url}/{name}", endpoint=endpoint)
        yield proxy, TicketStore(S3Objects(behind, patience=patience))


def test_a_fault_at_every_other_request_costs_second_tries_only(address: StoreAddress) -> None:
    def check(fault: Fault) -> None:
        ticket, record = make_ticket(), make_record()
        with proxied(address, fault.name, HURRIED) as (proxy, store):
            seldom = 4 if fault is Fault.HANG else 1  # each costs a second
            proxy.arm([Armed(fault, after=seldom)] * 20)
            store.objects.probe()
            ref = store.put_ticket(ticket)
            store.commit(record)
            store.put_checkpoint("k", b"state")
            assert store.checkpoint("k") == b"state", fault
            store.drop_checkpoint("k")
            assert store.ticket(ref.sha256) == ticket, fault
            assert store.records() == {record.key: record}, fault
            hit = proxy.injected()
            proxy.arm([])
            assert {item.path for item in store.objects.list("")} == {
                paths.ticket(ref.sha256),
                paths.record(record.key),
            }, fault
        assert len(hit) >= 2, fault
        assert set(hit) == {fault}

    each(check, PASSING)


def test_a_busy_server_is_not_a_damaged_object(address: StoreAddress) -> None:
    """It says so for each attempt at the content, and answers for the object's name."""
    with proxied(address) as (proxy, store):
        store.objects.put("sound", b"content")
        proxy.storm = Armed(Fault.SLOW_DOWN)
        with pytest.raises(StoreUnreachable, match="503 SlowDown"):
            store.objects.get("sound")


def test_a_server_that_hung_until_now_is_not_a_damaged_object(address: StoreAddress) -> None:
    with proxied(address) as (proxy, store):
        store.objects.put("sound", b"content")
        proxy.arm([Armed(Fault.HANG)] * BRIEF.attempts)
        assert store.objects.get("sound") == b"content"
        assert len(proxy.injected()) == BRIEF.attempts


def test_what_arrives_broken_each_time_is_damaged(address: StoreAddress) -> None:
    with proxied(address) as (proxy, store):
        store.objects.put("unsound", b"content")
        proxy.storm = Armed(Fault.FLIPPED)
        with pytest.raises(Damaged, match=r"unsound.*its copy is damaged"):
            store.objects.get("unsound")


def test_a_repair_keeps_what_a_failing_server_made_look_damaged(address: StoreAddress) -> None:
    with proxied(address) as (proxy, store):
        ref = store.put_ticket(make_ticket())
        store.commit(make_record("cut", ticket=ref))
        proxy.storm = Armed(Fault.TRUNCATED)
        report = verify(store)
        assert not report.sound
        proxy.storm = None
        assert repair(store, report) == ()
        assert verify(store).sound
