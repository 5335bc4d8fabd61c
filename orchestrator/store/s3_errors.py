"""Classification of S3 errors: which to retry, and which StoreError each becomes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as boto

from orchestrator.errors import NotInStore, StoreError, StoreFull, StoreUnreachable
from orchestrator.store.advice import FREE_SPACE

TOKEN_FILE_ERRORS = (FileNotFoundError, PermissionError)
"""What boto3 passes on from opening a role's token file, at the first request. Not OSError: some of
boto3's own errors are OSErrors too."""
BOTO_ERRORS = (boto.BotoCoreError, boto.ClientError, *TOKEN_FILE_ERRORS)
"""All errors that boto3 raises."""
BROKEN_RESPONSE_ERRORS = (
    boto.ReadTimeoutError,
    boto.ResponseStreamingError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
)
"""The response stopped, or arrived corrupted."""
NETWORK_ERRORS = (
    *BROKEN_RESPONSE_ERRORS,
    boto.ConnectTimeoutError,
    boto.EndpointConnectionError,
    boto.ConnectionClosedError,
)
"""No usable response."""
THROTTLED_CODES = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"}
TRANSIENT_CODES = {
    *THROTTLED_CODES,
    "ConditionalRequestConflict",
    "OperationAborted",
    "RequestTimeout",
}
FULL_CODES = {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}
CREDENTIAL_CODES = {
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
}
PERMANENT_STATUSES = {501, 507}  # not implemented, out of space
MAX_CLOCK_SKEW = timedelta(minutes=15)
"""S3 refuses signatures whose time differs more than this from its own."""


def is_precondition_failed(error: Exception) -> bool:
    """Return whether a conditional PUT failed because the object exists."""
    return _status(error) == 412


def is_missing(error: Exception) -> bool:
    """Return whether the object does not exist (in a bucket that exists, unless the request was a
    HEAD)."""
    return _status(error) == 404 and _code(error) != "NoSuchBucket"


def may_be_full(error: Exception) -> bool:
    """Return whether the disk may be full: SeaweedFS then answers every write with just `500
    InternalError`, within milliseconds, and still answers reads."""
    return _code(error) == "InternalError"


def may_be_damaged(error: Exception) -> bool:
    """Return whether a read may have failed because the stored bytes are damaged: the response
    stops, or the server fails without being busy or down."""
    if isinstance(error, BROKEN_RESPONSE_ERRORS):
        return True
    busy = _status(error) == 503 or _code(error) in THROTTLED_CODES
    return _status(error) >= 500 and not busy


def is_transient(error: BaseException) -> bool:
    """Return whether to retry: the network, a failing or throttling server, a lost race for a
    lock."""
    if isinstance(error, NETWORK_ERRORS):
        return True
    if not isinstance(error, boto.ClientError):
        return False
    status = _status(error)
    fails = status >= 500 and status not in PERMANENT_STATUSES
    return fails or status == 429 or _code(error) in TRANSIENT_CODES


def error_summary(error: Exception) -> str:
    """Return status and code, as in `500 InternalError`, or the type of network error."""
    if isinstance(error, boto.ClientError):
        return f"{_status(error)} {_code(error)}"
    return type(error).__name__


def to_store_error(error: Exception, *, where: str, endpoint: str) -> StoreError:
    """Return the StoreError that says what to do about `error`; `where` names the object."""
    server = endpoint or "AWS S3"
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StoreUnreachable(
            f"{where}: no credentials for {server}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment"
        )
    if isinstance(error, TOKEN_FILE_ERRORS):
        return StoreUnreachable(
            f"{where}: no credentials for {server} ({error}); correct the profile or the AWS_… "
            "environment variable with that file name, such as AWS_WEB_IDENTITY_TOKEN_FILE"
        )
    if not isinstance(error, boto.ClientError):
        return StoreUnreachable(
            f"{where}: no usable answer from {server} ({error_summary(error)}); check the address "
            "in `store.endpoint` and that the server is running"
        )
    if _code(error) in FULL_CODES or _status(error) == 507:
        return StoreFull(
            f"{where}: no space left in the store ({error_summary(error)}); {FREE_SPACE}"
        )
    if _code(error) == "NoSuchBucket":
        return StoreUnreachable(
            f"{where}: there is no such bucket on {server}; create it or correct `store.url`"
        )
    if is_missing(error):
        return NotInStore(f"{where}: no such object")
    skew = _skew(error)
    if skew > MAX_CLOCK_SKEW:
        return StoreUnreachable(
            f"{where}: the clocks of this machine and of {server} differ by "
            f"{skew.total_seconds() / 60:.0f} minutes, and S3 allows at most 15; set the clock "
            "(`date`, NTP) and run the same command again"
        )
    if _status(error) in (401, 403) or _code(error) in CREDENTIAL_CODES:
        return StoreUnreachable(
            f"{where}: {server} refused the credentials ({error_summary(error)}); check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their permissions"
        )
    if is_transient(error):
        return StoreUnreachable(
            f"{where}: {server} keeps failing ({error_summary(error)}); try again later"
        )
    return StoreError(f"{where}: {server} refused the request ({error_summary(error)})")


def server_time(reply: Mapping[str, Any]) -> datetime:
    """Return when the server sent this reply, by its own clock; by the local clock if the reply has
    no date. HTTP dates have whole seconds; they are rounded up, so that no object of the server
    seems to be from the future."""
    date = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) + timedelta(seconds=1) if date else datetime.now(UTC)


def _skew(error: boto.ClientError) -> timedelta:
    """Difference between the local clock and the server's, if that may be why the request was
    refused. A refused HEAD request gives no reason."""
    if _status(error) != 403:
        return timedelta(0)
    return abs(server_time(error.response) - datetime.now(UTC))


def _status(error: Exception) -> int:
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Exception) -> str:
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))
