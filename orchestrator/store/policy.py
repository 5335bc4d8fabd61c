"""The minimal permissions on a store's bucket, as an AWS policy.

Records are written once: a PUT to `trials/` is allowed only with `If-None-Match`, so even faulty
code cannot replace one. Content-addressed objects may be written again. S3 servers other than AWS
may not support the condition `s3:if-none-match`, or any conditions at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.store import paths
from orchestrator.store.s3 import StoreAddress

WRITE_ONCE = (paths.RECORDS,)
DELETABLE = (paths.CHECKPOINTS, paths.LEASES, paths.CATALOG, paths.PROBES)
"""Prefixes from which a run also deletes."""
PERMANENT = (paths.TICKETS, paths.WEIGHTS, paths.FAILURES, paths.LOGS)


def bucket_policy(
    address: StoreAddress, *, principal: str = "", maintenance: bool = False
) -> dict[str, Any]:
    """The policy for users who run sweeps; with `maintenance`, also for `tickets gc` and
    `tickets verify --repair`, which delete objects.

    The policy is meant for a role. With a `principal` (an ARN), it is meant for the bucket and also
    denies all requests without TLS.
    """
    bucket = f"arn:aws:s3:::{address.bucket}"
    root = f"{bucket}/{address.prefix}/" if address.prefix else f"{bucket}/"

    def resources(prefixes: Sequence[str]) -> list[str]:
        return [f"{root}{prefix}*" for prefix in prefixes]

    allowed = [
        {
            "Sid": "List",
            "Action": "s3:ListBucket",
            "Resource": bucket,
            **_prefix_condition(address),
        },
        {"Sid": "Read", "Action": "s3:GetObject", "Resource": f"{root}*"},
        {"Sid": "Write", "Action": "s3:PutObject", "Resource": resources((*PERMANENT, *DELETABLE))},
        {
            "Sid": "WriteOnce",
            "Action": "s3:PutObject",
            "Resource": resources(WRITE_ONCE),
            "Condition": {"Null": {"s3:if-none-match": "false"}},
        },
        {
            "Sid": "Delete",
            "Action": "s3:DeleteObject",
            "Resource": f"{root}*" if maintenance else resources(DELETABLE),
        },
    ]
    grantee = {"Principal": {"AWS": principal}} if principal else {}
    statements: list[dict[str, Any]] = [
        {"Effect": "Allow", **grantee, **statement} for statement in allowed
    ]
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


def _prefix_condition(address: StoreAddress) -> dict[str, Any]:
    """Restrict listings to the store's prefix.

    `IfExists`, because a request for a missing object also counts as a listing and has no prefix:
    denied, it would give 403 instead of 404.
    """
    if not address.prefix:
        return {}
    return {"Condition": {"StringLikeIfExists": {"s3:prefix": f"{address.prefix}/*"}}}
