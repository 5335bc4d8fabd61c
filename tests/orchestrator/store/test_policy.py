"""The bucket policy allows what a store does, and nothing else.

moto enforces actions and resources but ignores conditions, so these are checked in the document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from orchestrator.errors import StoreError
from orchestrator.store import paths, policy
from orchestrator.store.leases import Leases
from orchestrator.store.maintenance import collect_garbage, verify_store
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore
from tests.support import moto_process
from tests.support.records import make_record, make_ticket

BUCKET, PREFIX = "study", "vlt"

Opener = Callable[[dict[str, Any]], tuple[TrialStore, Any]]


@pytest.fixture
def open_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Opens a store in a shared bucket, and an S3 client of the same user. The user has only the
    permissions of the given policy."""
    with ExitStack() as stack:

        def open_as(document: dict[str, Any]) -> tuple[TrialStore, Any]:
            endpoint = stack.enter_context(moto_process.moto_server())
            admin = moto_process.boto_client(endpoint, "s3")
            place = {"LocationConstraint": moto_process.REGION}
            admin.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
            admin.put_object(Bucket=BUCKET, Key="others/object", Body=b"theirs")
            key, secret = moto_process.create_user(endpoint, json.dumps(document))
            moto_process.enforce_policies(endpoint)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            store = TrialStore(S3ObjectStore(address(endpoint)))
            return store, moto_process.boto_client(endpoint, "s3", key, secret)

        yield open_as


def address(endpoint: str = "") -> StoreAddress:
    return StoreAddress(
        url=f"s3://{BUCKET}/{PREFIX}", endpoint=endpoint, region=moto_process.REGION
    )


def test_the_policy_allows_what_a_run_does_and_nothing_else(open_store: Opener) -> None:
    store, s3 = open_store(policy.bucket_policy(address()))
    store.objects.probe()  # type: ignore[attr-defined]
    ticket = store.put_ticket(make_ticket())
    weights = store.put_weights("a" * 64, 100, b"weights")
    store.put_checkpoint("a" * 64, b"half-way")
    assert store.checkpoint("a" * 64) == b"half-way"
    assert store.checkpoint("b" * 64) is None
    store.delete_checkpoint("a" * 64)
    store.put_failure("a" * 64, {"error": "no"})
    store.put_log("a" * 64, "a line")
    with Leases(store.objects, "run").acquire("a" * 64) as acquired:
        assert acquired
    assert not [*store.objects.list(paths.LEASES)]
    store.objects.put(paths.catalog("c" * 64), b"merged")
    store.objects.delete(paths.catalog("c" * 64))
    record = make_record(ticket=ticket, weights=weights)
    assert store.commit(record)
    assert not store.commit(record)
    assert store.ticket(ticket.sha256) == make_ticket()
    assert store.records() == {record.key: record}
    assert verify_store(store).ok

    for path in (paths.record(record.key), paths.ticket(ticket.sha256), weights.path):
        with pytest.raises(StoreError):
            store.objects.delete(path)
        assert store.objects.stat(path)
    key = f"{PREFIX}/{paths.record(record.key)}"
    refused: dict[str, dict[str, Any]] = {
        "get_object": {"Bucket": BUCKET, "Key": "others/object"},
        "put_object": {"Bucket": BUCKET, "Key": "others/object", "Body": b"changed"},
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
        s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}/unknown/prefix", Body=b"")


def test_the_maintenance_policy_also_allows_garbage_collection(open_store: Opener) -> None:
    store, _ = open_store(policy.bucket_policy(address(), maintenance=True))
    ticket = store.put_ticket(make_ticket())
    deleted = collect_garbage(store, grace=timedelta(seconds=-1), dry_run=False)
    assert [item.path for item in deleted] == [paths.ticket(ticket.sha256)]
    assert not store.objects.stat(paths.ticket(ticket.sha256))


def test_every_prefix_has_a_rule() -> None:
    prefixes = {
        value
        for name, value in vars(paths).items()
        if name.isupper() and isinstance(value, str) and value.endswith("/")
    }
    assert prefixes == {*policy.WRITE_ONCE, *policy.DELETABLE, *policy.PERMANENT}


def test_an_existing_record_cannot_be_overwritten() -> None:
    statements = [
        statement
        for statement in policy.bucket_policy(address())["Statement"]
        if statement["Action"] == "s3:PutObject"
        and any("/trials/" in resource for resource in statement["Resource"])
    ]
    (statement,) = statements
    assert statement["Condition"] == {"Null": {"s3:if-none-match": "false"}}


def test_a_shared_bucket_may_be_listed_only_below_the_prefix() -> None:
    whole_bucket = policy.bucket_policy(StoreAddress(url="s3://study"))["Statement"][0]
    shared_bucket = policy.bucket_policy(address())["Statement"][0]
    assert "Condition" not in whole_bucket
    assert shared_bucket["Condition"] == {"StringLikeIfExists": {"s3:prefix": "vlt/*"}}


def test_a_bucket_policy_names_its_principal_and_denies_requests_without_tls() -> None:
    arn = "arn:aws:iam::123456789012:role/sweepstakes-worker"
    *allowed, denied = policy.bucket_policy(address(), principal=arn)["Statement"]
    assert {statement["Principal"]["AWS"] for statement in allowed} == {arn}
    assert (denied["Effect"], denied["Principal"]) == ("Deny", "*")
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
