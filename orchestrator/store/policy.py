"""The least that a store's users may do with its bucket, as an AWS policy.

Records are written once: a PUT to `trials/` is allowed only with `If-None-Match`, so even code that
goes wrong cannot replace one. What is named by its content may be written again. S3 servers other
than AWS may not know the condition `s3:if-none-match` or any conditions at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.store import paths
from orchestrator.store.s3 import StoreAddress

ONCE = (paths.RECORDS,)
PASSING = (paths.CHECKPOINTS, paths.CLAIMS, paths.CATALOG, paths.PROBES)
"""What a run deletes as well."""
LASTING = (paths.TICKETS, paths.WEIGHTS, paths.FAILURES, paths.LOGS)


def of(address: StoreAddress, *, principal: str = "", upkeep: bool = False) -> dict[str, Any]:
    """The policy for whoever runs sweeps; with `upkeep`, for whoever also deletes (`tickets gc` and
    `verify --repair`).

    It is one to attach to a role; with a `principal` (an ARN), it is one to attach to the bucket,
    and refuses everybody who does not use TLS.
    """
    bucket = f"arn:aws:s3:::{address.bucket}"
    root = f"{bucket}/{address.prefix}/" if address.prefix else f"{bucket}/"

    def below(places: Sequence[str]) -> list[str]:
        return [f"{root}{place}*" for place in places]

    allowed = [
        {"Sid": "List", "Action": "s3:ListBucket", "Resource": bucket, **_within(address)},
        {"Sid": "Read", "Action": "s3:GetObject", "Resource": f"{root}*"},
        {"Sid": "Write", "Action": "s3:PutObject", "Resource": below((*LASTING, *PASSING))},
        {
            "Sid": "WriteOnce",
            "Action": "s3:PutObject",
            "Resource": below(ONCE),
            "Condition": {"Null": {"s3:if-none-match": "false"}},
        },
        {
            "Sid": "Delete",
            "Action": "s3:DeleteObject",
            "Resource": f"{root}*" if upkeep else below(PASSING),
        },
    ]
    who = {"Principal": {"AWS": principal}} if principal else {}
    statements: list[dict[str, Any]] = [{"Effect": "Allow", **who, **one} for one in allowed]
    if principal:
        statements.append(
            {
                "Sid": "OnlyByTLS",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [bucket, f"{bucket}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def _within(address: StoreAddress) -> dict[str, Any]:
    """Only lists below the prefix. `IfExists`, because asking for one object that is not there
    counts as listing too, and names no prefix; refused, it would be 403 and not 404."""
    if not address.prefix:
        return {}
    return {"Condition": {"StringLikeIfExists": {"s3:prefix": f"{address.prefix}/*"}}}
