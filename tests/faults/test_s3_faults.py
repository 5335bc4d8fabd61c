"""The store under all kinds of S3 and network faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.errors import Damaged, StoreUnreachable
from orchestrator.store import paths
from orchestrator.store.maintenance import repair_store, verify_store
from orchestrator.store.s3 import S3ObjectStore, StoreAddress, Timeouts
from orchestrator.store.tickets import TrialStore, thread_map
from tests.support.records import make_record, make_ticket
from tests.support.s3_proxy import RECOVERABLE, ArmedFault, Fault, S3Proxy, run_proxy

ONE_SECOND_TIMEOUTS = Timeouts(connect_s=1.0, read_s=1.0, deadline_s=8.0)
TWO_ATTEMPTS = Timeouts(connect_s=1.0, read_s=1.0, deadline_s=8.0, max_attempts=2)


@contextmanager
def proxied(
    address: StoreAddress, name: str = "one", timeouts: Timeouts = TWO_ATTEMPTS
) -> Iterator[tuple[S3Proxy, TrialStore]]:
    """Yield a proxy and an empty store behind it."""
    with run_proxy(address.endpoint) as (proxy, endpoint):
        behind = StoreAddress(url=f"{address.url}/{name}", endpoint=endpoint)
        yield proxy, TrialStore(S3ObjectStore(behind, timeouts=timeouts))


def test_a_fault_at_every_other_request_only_costs_retries(address: StoreAddress) -> None:
    def check(fault: Fault) -> None:
        ticket, record = make_ticket(), make_record()
        with proxied(address, fault.name, ONE_SECOND_TIMEOUTS) as (proxy, store):
            after = 4 if fault is Fault.HANG else 1  # each hang costs a second
            proxy.arm([ArmedFault(fault, after=after)] * 20)
            store.objects.probe()
            ref = store.put_ticket(ticket)
            store.commit(record)
            store.put_checkpoint("k", b"state")
            assert store.checkpoint("k") == b"state", fault
            store.delete_checkpoint("k")
            assert store.ticket(ref.sha256) == ticket, fault
            assert store.records() == {record.key: record}, fault
            faults = proxy.injected_faults()
            proxy.arm([])
            assert {item.path for item in store.objects.list("")} == {
                paths.ticket(ref.sha256),
                paths.record(record.key),
            }, fault
        assert len(faults) >= 2, fault
        assert set(faults) == {fault}

    thread_map(check, RECOVERABLE)


def test_a_busy_server_is_not_a_damaged_object(address: StoreAddress) -> None:
    """The server answers 503 to each attempt."""
    with proxied(address) as (proxy, store):
        store.objects.put("sound", b"content")
        proxy.storm = ArmedFault(Fault.SLOW_DOWN)
        with pytest.raises(StoreUnreachable, match="503 SlowDown"):
            store.objects.get("sound")


def test_a_server_that_hangs_for_a_while_is_not_a_damaged_object(address: StoreAddress) -> None:
    with proxied(address) as (proxy, store):
        store.objects.put("sound", b"content")
        proxy.arm([ArmedFault(Fault.HANG)] * TWO_ATTEMPTS.max_attempts)
        assert store.objects.get("sound") == b"content"
        assert len(proxy.injected_faults()) == TWO_ATTEMPTS.max_attempts


def test_content_that_is_wrong_at_each_attempt_is_damaged(address: StoreAddress) -> None:
    with proxied(address) as (proxy, store):
        store.objects.put("unsound", b"content")
        proxy.storm = ArmedFault(Fault.FLIPPED)
        with pytest.raises(Damaged, match=r"unsound.*its copy is damaged"):
            store.objects.get("unsound")


def test_repair_keeps_objects_that_only_looked_damaged(address: StoreAddress) -> None:
    with proxied(address) as (proxy, store):
        ref = store.put_ticket(make_ticket())
        store.commit(make_record("prune", ticket=ref))
        proxy.storm = ArmedFault(Fault.TRUNCATED)
        report = verify_store(store)
        assert not report.ok
        proxy.storm = None
        assert repair_store(store, report) == ()
        assert verify_store(store).ok
