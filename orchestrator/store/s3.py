"""Objects in an S3 bucket: written once, whole or not at all, with bounded waiting.

Every write goes out in one PUT from memory with its SHA-256, and `put_new` adds
`If-None-Match: *`, so that of two writers exactly one creates the object and no reader ever sees
half of one. (pyarrow's own S3 writer has no conditional PUT and publishes truncated files when an
exception passes through it, so it is not used.)
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.utils import parse_timestamp
from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from orchestrator.errors import (
    ConfigError,
    Damaged,
    StoreError,
    StoreFull,
    StoreUnreachable,
    StoreUnsafe,
)
from orchestrator.store import paths
from orchestrator.store.advice import FREE_SPACE, REPAIR
from orchestrator.store.objects import Listed
from orchestrator.store.s3_errors import (
    FOREIGN,
    brief,
    is_missing,
    is_taken,
    is_transient,
    may_be_damaged,
    may_be_full,
    server_time,
    translate,
)
from orchestrator.sweep.config import BUCKET, SERVER

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
CONNECTIONS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreAddress:
    """Where a store is. Credentials are no part of it: boto3 takes them from the environment
    (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`) or, on AWS, from the machine's role."""

    url: str
    """`s3://bucket` or `s3://bucket/prefix`."""
    endpoint: str = ""
    """Address of an S3 server such as `http://127.0.0.1:8333`; empty for AWS."""
    region: str = "us-east-1"

    def __post_init__(self) -> None:
        if not self.url.startswith("s3://") or not re.fullmatch(BUCKET, self.bucket):
            raise ConfigError(
                f"store url = {self.url!r} is not allowed; use s3://bucket or s3://bucket/prefix, "
                "the bucket in 3 to 63 of a-z, 0-9, '-' and '.'"
            )
        if self.endpoint and not re.fullmatch(f"{SERVER}/?", self.endpoint):
            raise ConfigError(
                "store endpoint: use an address such as http://127.0.0.1:8333, without user and "
                "password, or leave it empty for AWS S3"
            )

    @property
    def bucket(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        return urlsplit(self.url).path.strip("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a request may take, in seconds. A server that answers in a trickle of bytes is the
    one case that these limits do not end: each byte counts as progress."""

    connect: float = 2.0
    read: float = 10.0
    """Without a single byte of progress. A contended conditional PUT may take 3 s on SeaweedFS."""
    deadline: float = 20.0
    """No attempt starts later than this."""
    attempts: int = 6
    """About 6 s of waiting in all: a restarting local server is back after 1 to 5 s."""


class S3Objects:
    """`ObjectStore` in an S3 bucket. May be shared by threads; makes its own client, so build one
    per process rather than sending one to another."""

    def __init__(self, address: StoreAddress, *, patience: Patience | None = None) -> None:
        self.address = address
        self._patience = patience or Patience()
        self._client = _client(address, self._patience)

    def where(self, path: str) -> str:
        return f"s3://{self.address.bucket}/{self._key(path)}"

    def put_new(self, path: str, data: bytes) -> bool:
        try:
            self._put(path, data, IfNoneMatch="*")
        except FOREIGN as error:
            if is_taken(error):
                return False
            raise self._unwritten(error, path) from error
        return True

    def put(self, path: str, data: bytes) -> None:
        try:
            self._put(path, data)
        except FOREIGN as error:
            raise self._unwritten(error, path) from error

    def get(self, path: str) -> bytes:
        def read() -> bytes:
            return self._client.get_object(**self._at(path))["Body"].read()

        try:
            return self._retry(read)
        except FOREIGN as error:
            if not (may_be_damaged(error) and self._answers(path)):
                raise self._translated(error, path) from error
        # SeaweedFS never answers a read whose stored bytes fail its own checksum; others send a
        # 5xx. That it answers for the object's head and still does not deliver it tells this from
        # a server that was dead, hung or failing until now.
        try:
            return read()
        except FOREIGN as error:
            if not may_be_damaged(error):
                raise self._translated(error, path) from error
            raise Damaged(
                f"{self.where(path)}: the store does not deliver this object though it answers "
                f"for its name ({brief(error)}): its copy is damaged; {REPAIR}"
            ) from error

    def stat(self, path: str) -> Listed | None:
        try:
            head = self._retry(lambda: self._client.head_object(**self._at(path)))
        except FOREIGN as error:
            if is_missing(error):
                return None
            raise self._translated(error, path) from error
        return Listed(
            path=path,
            size=head["ContentLength"],
            modified=head["LastModified"],
            etag=head["ETag"],
            seen=server_time(head),
        )

    def list(self, prefix: str) -> Iterator[Listed]:
        start = len(self._key(""))
        query: dict[str, Any] = {"Bucket": self.address.bucket, "Prefix": self._key(prefix)}
        while True:
            try:
                page = self._retry(lambda: self._client.list_objects_v2(**query))
            except FOREIGN as error:
                raise self._translated(error, prefix) from error
            seen = server_time(page)
            for item in page.get("Contents", []):
                yield Listed(
                    path=item["Key"][start:],
                    size=item["Size"],
                    modified=item["LastModified"],
                    etag=item["ETag"],
                    seen=seen,
                )
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, path: str) -> None:
        try:
            self._retry(lambda: self._client.delete_object(**self._at(path)))
        except FOREIGN as error:
            raise self._translated(error, path) from error

    def probe(self) -> None:
        """Prove that the store can be used: write, read back, and be refused a second writing.

        Raises:
            StoreUnreachable: no answer, wrong credentials, or no such bucket.
            StoreFull: it answers but cannot store.
            StoreUnsafe: it ignores conditional PUT, so two writers could overwrite each other.
        """
        path = paths.probe(secrets.token_hex(8))
        self.put_new(path, b"first")  # False where only the reply was lost: the name is our own
        replaced = self.put_new(path, b"second")
        back = self.get(path)
        self.delete(path)
        if replaced or back != b"first":
            raise StoreUnsafe(
                f"{self.where('')}: the server ignores conditional PUT (If-None-Match: *), so two "
                "writers could overwrite each other; use AWS S3, SeaweedFS 4.48 or newer, or "
                "another store that answers the second PUT with 412"
            )

    def _key(self, path: str) -> str:
        return f"{self.address.prefix}/{path}" if self.address.prefix else path

    def _at(self, path: str) -> dict[str, Any]:
        return {"Bucket": self.address.bucket, "Key": self._key(path)}

    def _put(self, path: str, data: bytes, **condition: Any) -> None:
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        request = {**self._at(path), "Body": data, "ChecksumSHA256": digest, **condition}
        self._retry(lambda: self._client.put_object(**request))

    def _retry(self, request: Callable[[], T]) -> T:
        attempts = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_exponential(multiplier=0.2, max=4.0) + wait_random(0, 0.2),
            stop=stop_after_attempt(self._patience.attempts)
            | stop_before_delay(self._patience.deadline),
            reraise=True,
        )
        return attempts(request)

    def _answers(self, path: str) -> bool:
        """Whether one request about `path` that needs no content is answered."""
        try:
            self._client.head_object(**self._at(path))
        except FOREIGN as error:
            return is_missing(error)
        return True

    def _unwritten(self, error: Exception, path: str) -> StoreError:
        if may_be_full(error) and self._answers(path):
            return StoreFull(
                f"{self.where(path)}: the store answers reads but refuses writes "
                f"({brief(error)}): its disk is most likely full; {FREE_SPACE}"
            )
        return self._translated(error, path)

    def _translated(self, error: Exception, path: str) -> StoreError:
        return translate(error, where=self.where(path), endpoint=self.address.endpoint)


def _client(address: StoreAddress, patience: Patience) -> S3Client:
    local = urlsplit(address.endpoint).hostname in ("127.0.0.1", "::1", "localhost")
    config = Config(
        connect_timeout=patience.connect,
        read_timeout=patience.read,
        retries={"total_max_attempts": 1},  # `_retry` does it, on named errors, with a deadline
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": "path" if address.endpoint else "auto"},
        proxies={} if local else None,  # a proxy of the environment cannot reach this machine
    )
    core = botocore.session.get_session()
    parsers = core.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_when)
    try:
        return boto3.session.Session(botocore_session=core).client(
            "s3", endpoint_url=address.endpoint or None, region_name=address.region, config=config
        )
    except (*FOREIGN, ValueError) as error:  # the latter of a number that is none
        raise StoreUnreachable(
            f"{address.url}: the AWS settings of this machine cannot be used ({error}); correct "
            "`store.region`, the variables AWS_…, such as AWS_PROFILE, or the files in ~/.aws"
        ) from error


def _when(stamp: str) -> datetime:
    """A listing's dates are ISO 8601; for those botocore's own parser, which takes any form, took
    72 % of the 47 ms of CPU in which a page of 1,000 objects was read."""
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:  # an object's head has the form of HTTP
        return parse_timestamp(stamp)
