"""Objects in an S3 bucket: atomic writes, conditional creation and bounded waiting.

Every write is one PUT from memory with its SHA-256. `put_new` adds `If-None-Match: *`, so that of
two writers exactly one creates the object. A reader never sees half of an object. (pyarrow's own S3
writer is not used: it has no conditional PUT, and it publishes truncated files when an exception
passes through it.)
"""

from __future__ import annotations

import base64
import hashlib
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

from cluster import addresses
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
from orchestrator.store.objects import ObjectInfo
from orchestrator.store.s3_errors import (
    BOTO_ERRORS,
    error_summary,
    is_missing,
    is_precondition_failed,
    is_transient,
    may_be_damaged,
    may_be_full,
    server_time,
    to_store_error,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
MAX_CONNECTIONS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreAddress:
    """Location of a store. It holds no credentials: boto3 takes them from the environment
    (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`) or, on AWS, from the machine's role."""

    url: str
    """`s3://bucket` or `s3://bucket/prefix`."""
    endpoint: str = ""
    """Address of an S3 server such as `http://127.0.0.1:8333`; empty for AWS."""
    region: str = "us-east-1"

    def __post_init__(self) -> None:
        if not addresses.STORE.matches(self.url):
            raise ConfigError(f"store url = {self.url!r} is not allowed; {addresses.STORE.advice}")
        if not addresses.ENDPOINT.matches(self.endpoint):
            raise ConfigError(f"store endpoint: {addresses.ENDPOINT.advice}")

    @property
    def bucket(self) -> str:
        return addresses.bucket_and_prefix(self.url)[0]

    @property
    def prefix(self) -> str:
        return addresses.bucket_and_prefix(self.url)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeouts:
    """Limits on a request. They do not stop a server that sends its answer in a trickle of bytes:
    each byte counts as progress."""

    connect_s: float = 2.0
    read_s: float = 10.0
    """Maximum time without a byte of progress. A contended conditional PUT may take 3 s on
    SeaweedFS."""
    deadline_s: float = 20.0
    """No attempt starts later than this."""
    max_attempts: int = 6
    """About 6 s of waiting in total: a restarting local server is back after 1 to 5 s."""


class S3ObjectStore:
    """`ObjectStore` in an S3 bucket. Thread-safe. It creates its own client, so create one per
    process instead of sending it to another process."""

    def __init__(self, address: StoreAddress, *, timeouts: Timeouts | None = None) -> None:
        self.address = address
        self._timeouts = timeouts or Timeouts()
        self._client = _client(address, self._timeouts)

    def url(self, path: str) -> str:
        return f"s3://{self.address.bucket}/{self._key(path)}"

    def put_new(self, path: str, data: bytes) -> bool:
        try:
            self._put(path, data, IfNoneMatch="*")
        except BOTO_ERRORS as error:
            if is_precondition_failed(error):
                return False
            raise self._write_error(error, path) from error
        return True

    def put(self, path: str, data: bytes) -> None:
        try:
            self._put(path, data)
        except BOTO_ERRORS as error:
            raise self._write_error(error, path) from error

    def get(self, path: str) -> bytes:
        def read() -> bytes:
            return self._client.get_object(**self._location(path))["Body"].read()

        try:
            return self._retry(read)
        except BOTO_ERRORS as error:
            if not (may_be_damaged(error) and self._answers(path)):
                raise self._error(error, path) from error
        # SeaweedFS never answers a read whose stored bytes fail its own checksum; other servers
        # send a 5xx. If HEAD succeeds but the object is still not delivered, the object is damaged;
        # otherwise the server was down, hung or failing.
        try:
            return read()
        except BOTO_ERRORS as error:
            if not may_be_damaged(error):
                raise self._error(error, path) from error
            raise Damaged(
                f"{self.url(path)}: the store lists this object but does not deliver it "
                f"({error_summary(error)}): its copy is damaged; {REPAIR}"
            ) from error

    def stat(self, path: str) -> ObjectInfo | None:
        try:
            head = self._retry(lambda: self._client.head_object(**self._location(path)))
        except BOTO_ERRORS as error:
            if is_missing(error):
                return None
            raise self._error(error, path) from error
        return ObjectInfo(
            path=path,
            size=head["ContentLength"],
            modified=head["LastModified"],
            etag=head["ETag"],
            observed=server_time(head),
        )

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        start = len(self._key(""))
        query: dict[str, Any] = {"Bucket": self.address.bucket, "Prefix": self._key(prefix)}
        while True:
            try:
                page = self._retry(lambda: self._client.list_objects_v2(**query))
            except BOTO_ERRORS as error:
                raise self._error(error, prefix) from error
            seen = server_time(page)
            for item in page.get("Contents", []):
                yield ObjectInfo(
                    path=item["Key"][start:],
                    size=item["Size"],
                    modified=item["LastModified"],
                    etag=item["ETag"],
                    observed=seen,
                )
            if not page.get("IsTruncated"):
                return
            query["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, path: str) -> None:
        try:
            self._retry(lambda: self._client.delete_object(**self._location(path)))
        except BOTO_ERRORS as error:
            raise self._error(error, path) from error

    def probe(self) -> None:
        """Check that the store works: an object can be written and read back, and a second
        conditional PUT is refused.

        Raises:
            StoreUnreachable: no answer, wrong credentials, or no such bucket.
            StoreFull: the store answers but cannot write.
            StoreUnsafe: it ignores conditional PUT, so two writers could overwrite each other.
        """
        path = paths.probe(secrets.token_hex(8))
        self.put_new(path, b"first")  # False if only the reply was lost: the name is unique
        replaced = self.put_new(path, b"second")
        content = self.get(path)
        self.delete(path)
        if replaced or content != b"first":
            raise StoreUnsafe(
                f"{self.url('')}: the server ignores conditional PUT (If-None-Match: *), so two "
                "writers could overwrite each other; use AWS S3, SeaweedFS 4.48 or newer, or "
                "another store that answers the second PUT with 412"
            )

    def _key(self, path: str) -> str:
        return f"{self.address.prefix}/{path}" if self.address.prefix else path

    def _location(self, path: str) -> dict[str, Any]:
        return {"Bucket": self.address.bucket, "Key": self._key(path)}

    def _put(self, path: str, data: bytes, **condition: Any) -> None:
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        request = {**self._location(path), "Body": data, "ChecksumSHA256": digest, **condition}
        self._retry(lambda: self._client.put_object(**request))

    def _retry(self, request: Callable[[], T]) -> T:
        attempts = Retrying(
            retry=retry_if_exception(is_transient),
            wait=wait_exponential(multiplier=0.2, max=4.0) + wait_random(0, 0.2),
            stop=stop_after_attempt(self._timeouts.max_attempts)
            | stop_before_delay(self._timeouts.deadline_s),
            reraise=True,
        )
        return attempts(request)

    def _answers(self, path: str) -> bool:
        """Return whether a HEAD request for `path` is answered."""
        try:
            self._client.head_object(**self._location(path))
        except BOTO_ERRORS as error:
            return is_missing(error)
        return True

    def _write_error(self, error: Exception, path: str) -> StoreError:
        if may_be_full(error) and self._answers(path):
            return StoreFull(
                f"{self.url(path)}: the store answers reads but refuses writes "
                f"({error_summary(error)}): its disk is most likely full; {FREE_SPACE}"
            )
        return self._error(error, path)

    def _error(self, error: Exception, path: str) -> StoreError:
        return to_store_error(error, where=self.url(path), endpoint=self.address.endpoint)


def _client(address: StoreAddress, timeouts: Timeouts) -> S3Client:
    local = urlsplit(address.endpoint).hostname in ("127.0.0.1", "::1", "localhost")
    config = Config(
        connect_timeout=timeouts.connect_s,
        read_timeout=timeouts.read_s,
        retries={"total_max_attempts": 1},  # `_retry` retries, on specific errors, to a deadline
        max_pool_connections=MAX_CONNECTIONS,
        s3={"addressing_style": "path" if address.endpoint else "auto"},
        proxies={} if local else None,  # a proxy set in the environment cannot reach localhost
    )
    core = botocore.session.get_session()
    parsers = core.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=_parse_timestamp)
    try:
        return boto3.session.Session(botocore_session=core).client(
            "s3", endpoint_url=address.endpoint or None, region_name=address.region, config=config
        )
    except (*BOTO_ERRORS, ValueError) as error:  # ValueError: a setting is not a number
        raise StoreUnreachable(
            f"{address.url}: the AWS settings of this machine are not usable ({error}); correct "
            "`store.region`, the AWS_… environment variables such as AWS_PROFILE, or the files in "
            "~/.aws"
        ) from error


def _parse_timestamp(text: str) -> datetime:
    """Listings have ISO 8601 dates. botocore's own parser, which accepts any format, took 72 % of
    the 47 ms of CPU time for a page of 1,000 objects."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # a HEAD response has the HTTP date format
        return parse_timestamp(text)
