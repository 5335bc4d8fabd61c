"""The bucket's policy lets a store do all that it does, and nothing else.

moto holds users to actions and resources; conditions it takes for met, so those are looked at."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from orchestrator.errors import StoreError
from orchestrator.store import maintenance as upkeep
from orchestrator.store import paths, policy
from orchestrator.store.leases import Claims
from orchestrator.store.s3 import S3Objects, StoreAddress
from orchestrator.store.tickets import TicketStore
from tests.support import moto_process
from tests.support.records import make_record, make_ticket

BUCKET, PREFIX = "study", "vlt"

Opener = Callable[[dict[str, Any]], tuple[TicketStore, Any]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens a store in a bucket that others use too, and an S3 client of the same user, whom
    nothing but the given policy lets in."""
    with ExitStack() as stack:

        def open_as(document: dict[str, Any]) -> tuple[TicketStore, Any]:
            endpoint = stack.enter_context(moto_process.serving())
            admin = moto_process.client(endpoint, "s3")
            place = {"LocationConstraint": moto_process.REGION}
            admin.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
            admin.put_object(Bucket=BUCKET, Key="others/object", Body=b"theirs")
            key, secret = moto_process.user(endpoint, json.dumps(document))
            moto_process.enforce_policies(endpoint)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            where = address(endpoint)
            return TicketStore(S3Objects(where)), moto_process.client(endpoint, "s3", key, secret)

        yield open_as


def address(endpoint: str = "") -> StoreAddress:
    return StoreAddress(
        url=f"s3://{BUCKET}/{PREFIX}", endpoint=endpoint, region=moto_process.REGION
    )


def test_a_run_may_do_what_runs_do_and_nothing_else(opened: Opener) -> None:
    store, s3 = opened(policy.of(address()))
    store.objects.probe()  # type: ignore[attr-defined]
    ticket = store.put_ticket(make_ticket())
    weights = store.put_weights("a" * 64, 100, b"weights")
    store.put_checkpoint("a" * 64, b"half-way")
    assert store.checkpoint("a" * 64) == b"half-way"
    assert store.checkpoint("b" * 64) is None
    store.drop_checkpoint("a" * 64)
    store.note_failure("a" * 64, {"error": "no"})
    store.put_log("a" * 64, "a line")
    with Claims(store.objects, "run").held("a" * 64) as ours:
        assert ours
    assert not [*store.objects.list(paths.CLAIMS)]
    store.objects.put(paths.catalog("c" * 64), b"merged")
    store.objects.delete(paths.catalog("c" * 64))
    record = make_record(ticket=ticket, weights=weights)
    assert store.commit(record)
    assert not store.commit(record)
    assert store.ticket(ticket.sha256) == make_ticket()
    assert store.records() == {record.key: record}
    assert upkeep.verify(store).sound

    for path in (paths.record(record.key), paths.ticket(ticket.sha256), weights.path):
        with pytest.raises(StoreError):
            store.objects.delete(path)
        assert store.objects.stat(path)
    key = f"{PREFIX}/{paths.record(record.key)}"
    refused: dict[str, dict[str, Any]] = {
        "get_object": {"Bucket": BUCKET, "Key": "others/object"},
        "put_object": {"Bucket": BUCKET, "Key": "others/object", "Body": b"ours"},
        "delete_object": {"Bucket": BUCKET, "Key": "others/object"},
        "put_object_acl": {"Bucket": BUCKET, "Key": key, "ACL": "public-read"},
        "get_bucket_policy": {"Bucket": BUCKET},
        "delete_bucket": {"Bucket": BUCKET},
        "create_bucket": {"Bucket": "another"},
        "list_buckets": {},
    }
    for action, arguments in refused.items():
        with pytest.raises(ClientError, match=r"AccessDenied|Forbidden|403"):
            getattr(s3, action)(**arguments)
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/of/no/kind", Body=b"")


def test_upkeep_may_collect_as_well(opened: Opener) -> None:
    store, _ = opened(policy.of(address(), upkeep=True))
    ticket = store.put_ticket(make_ticket())
    gone = upkeep.collect(store, grace=timedelta(seconds=-1), dry_run=False)
    assert [item.path for item in gone] == [paths.ticket(ticket.sha256)]
    assert not store.objects.stat(paths.ticket(ticket.sha256))


def test_every_kind_of_object_has_its_rule() -> None:
    kinds = {
        value
        for name, value in vars(paths).items()
        if name.isupper() and isinstance(value, str) and value.endswith("/")
    }
    assert kinds == {*policy.ONCE, *policy.PASSING, *policy.LASTING}


def test_a_record_is_written_only_where_there_is_none() -> None:
    writing = [
        statement
        for statement in policy.of(address())["Statement"]
        if statement["Action"] == "s3:PutObject"
        and any("/trials/" in resource for resource in statement["Resource"])
    ]
    (once,) = writing
    assert once["Condition"] == {"Null": {"s3:if-none-match": "false"}}


def test_a_bucket_of_its_own_may_be_listed_and_a_shared_one_below_the_prefix() -> None:
    own = policy.of(StoreAddress(url="s3://study"))["Statement"][0]
    shared = policy.of(address())["Statement"][0]
    assert "Condition" not in own
    assert shared["Condition"] == {"StringLikeIfExists": {"s3:prefix": "vlt/*"}}


def test_the_bucket_itself_refuses_who_is_not_named_and_who_does_not_use_tls() -> None:
    arn = "arn:aws:iam::123456789012:role/sweepstakes-worker"
    *allowed, refused = policy.of(address(), principal=arn)["Statement"]
    assert {statement["Principal"]["AWS"] for statement in allowed} == {arn}
    assert (refused["Effect"], refused["Principal"]) == ("Deny", "*")
    assert refused["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
