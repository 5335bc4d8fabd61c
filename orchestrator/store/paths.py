"""Where things are in a store. What is under the first three names never changes once written."""

from __future__ import annotations

TICKETS = "masks/sha256/"
RECORDS = "trials/"
WEIGHTS = "weights/"
CHECKPOINTS = "checkpoints/"
FAILURES = "failures/"
CATALOG = "catalog/"
PROBES = "probe/"


def ticket(sha256: str) -> str:
    return f"{TICKETS}{sha256[:2]}/{sha256}.parquet"


def record(key: str) -> str:
    return f"{RECORDS}{key}.json"


def weights(key: str, step: int, sha256: str) -> str:
    """The hash is in the name: a run that died after writing its rewind point, and is repeated on
    another kind of machine, must be able to write a slightly different one."""
    return f"{WEIGHTS}{key}/{step}-{sha256[:16]}.safetensors"


def checkpoint(key: str) -> str:
    return f"{CHECKPOINTS}{key}.safetensors"


def failure(key: str) -> str:
    return f"{FAILURES}{key}.json"


def catalog(sha256: str) -> str:
    return f"{CATALOG}{sha256}.parquet"


def stem(path: str) -> str:
    """The key or hash that a record, ticket, checkpoint, failure or catalog file is named by."""
    return path.rpartition("/")[2].partition(".")[0]


def probe(name: str) -> str:
    return f"{PROBES}{name}"
