"""What an S3 server's refusals mean: which are worth another try, and which error each becomes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as boto

from orchestrator.errors import NotInStore, StoreError, StoreFull, StoreUnreachable
from orchestrator.store.advice import FREE_SPACE

UNREADABLE = (FileNotFoundError, PermissionError)
"""What boto3 lets through when it opens a role's token, which it does at the first request. Not
OSError: some of its own are that too."""
FOREIGN = (boto.BotoCoreError, boto.ClientError, *UNREADABLE)
"""Everything that boto3 raises."""
BROKEN = (
    boto.ReadTimeoutError,
    boto.ResponseStreamingError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
)
"""An answer that stopped, or arrived otherwise than it was sent."""
NETWORK = (
    *BROKEN,
    boto.ConnectTimeoutError,
    boto.EndpointConnectionError,
    boto.ConnectionClosedError,
)
"""No usable answer."""
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
NOT_WORTH_RETRYING = {501, 507}  # not implemented, out of space
SKEW = timedelta(minutes=15)
"""S3 refuses signatures whose time is further than this from its own."""


def is_taken(error: Exception) -> bool:
    """A conditional PUT found an object there."""
    return _status(error) == 412


def is_missing(error: Exception) -> bool:
    """There is no such object (in a bucket that exists, unless the request was a HEAD)."""
    return _status(error) == 404 and _code(error) != "NoSuchBucket"


def may_be_full(error: Exception) -> bool:
    """SeaweedFS says no more than `500 InternalError` when its disk is full: within milliseconds,
    at each attempt to write, while it goes on answering reads."""
    return _code(error) == "InternalError"


def may_be_damaged(error: Exception) -> bool:
    """What reading an object gives whose stored bytes are damaged, if the server is sound: no end
    of an answer, or a failure that is not the server's being busy or gone."""
    if isinstance(error, BROKEN):
        return True
    busy = _status(error) == 503 or _code(error) in THROTTLED_CODES
    return _status(error) >= 500 and not busy


def is_transient(error: BaseException) -> bool:
    """Worth another try: the network, a failing or throttling server, a lost race for a lock."""
    if isinstance(error, NETWORK):
        return True
    if not isinstance(error, boto.ClientError):
        return False
    status = _status(error)
    fails = status >= 500 and status not in NOT_WORTH_RETRYING
    return fails or status == 429 or _code(error) in TRANSIENT_CODES


def brief(error: Exception) -> str:
    """`500 InternalError`, or the kind of network error."""
    if isinstance(error, boto.ClientError):
        return f"{_status(error)} {_code(error)}"
    return type(error).__name__


def translate(error: Exception, *, where: str, endpoint: str) -> StoreError:
    """The error of ours that says what to do about `error`, which concerned the object `where`."""
    server = endpoint or "AWS S3"
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return StoreUnreachable(
            f"{where}: no credentials for {server}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment"
        )
    if isinstance(error, UNREADABLE):
        return StoreUnreachable(
            f"{where}: no credentials for {server} ({error}); correct the variable AWS_… or the "
            "profile that names the file, such as AWS_WEB_IDENTITY_TOKEN_FILE"
        )
    if not isinstance(error, boto.ClientError):
        return StoreUnreachable(
            f"{where}: no usable answer from {server} ({brief(error)}); check the address in "
            "`store.endpoint` and that the server runs"
        )
    if _code(error) in FULL_CODES or _status(error) == 507:
        return StoreFull(f"{where}: no space left in the store ({brief(error)}); {FREE_SPACE}")
    if _code(error) == "NoSuchBucket":
        return StoreUnreachable(
            f"{where}: there is no such bucket on {server}; create it or correct `store.url`"
        )
    if is_missing(error):
        return NotInStore(f"{where}: no such object")
    skew = _skew(error)
    if skew > SKEW:
        return StoreUnreachable(
            f"{where}: the clock of this machine and that of {server} differ by "
            f"{skew.total_seconds() / 60:.0f} minutes, and S3 refuses more than 15; set the clock "
            "(`date`, NTP) and run the same command again"
        )
    if _status(error) in (401, 403) or _code(error) in CREDENTIAL_CODES:
        return StoreUnreachable(
            f"{where}: {server} refused the credentials ({brief(error)}); check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do"
        )
    if is_transient(error):
        return StoreUnreachable(
            f"{where}: {server} keeps failing ({brief(error)}); try again later"
        )
    return StoreError(f"{where}: {server} refused the request ({brief(error)})")


def server_time(reply: Mapping[str, Any]) -> datetime:
    """When the server sent this reply, by its own clock; by ours if it does not say. HTTP has
    whole seconds: rounded up, so that nothing the server holds seems to be of the future."""
    date = reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return parsedate_to_datetime(date) + timedelta(seconds=1) if date else datetime.now(UTC)


def _skew(error: boto.ClientError) -> timedelta:
    """How far our clock is from the server's, if that may be why it refused the request. A HEAD's
    refusal does not say why."""
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
