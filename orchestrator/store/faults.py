"""What an S3 server's refusals mean: which are worth another try, and which error each becomes."""

from __future__ import annotations

from botocore import exceptions as boto

from orchestrator.errors import NotInStore, StoreError, StoreFull, StoreUnreachable
from orchestrator.store.cures import FREE_SPACE

FOREIGN = (boto.BotoCoreError, boto.ClientError)
"""Everything that boto3 raises."""
NETWORK = (
    boto.ConnectTimeoutError,
    boto.ReadTimeoutError,
    boto.EndpointConnectionError,
    boto.ConnectionClosedError,
    boto.ResponseStreamingError,
    boto.IncompleteReadError,
    boto.FlexibleChecksumError,
)
"""No answer, or one that arrived broken."""
TRANSIENT_CODES = {
    "ConditionalRequestConflict",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
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


def _status(error: Exception) -> int:
    if not isinstance(error, boto.ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: Exception) -> str:
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))
