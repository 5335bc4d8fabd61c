"""Where things are in a store. What is under the first three names never changes once written."""

from __future__ import annotations

TICKETS = "masks/sha256/"
RECORDS = "trials/"
WEIGHTS = "weights/"
CHECKPOINTS = "checkpoints/"
FAILURES = "failures/"
LOGS = "logs/"
CLAIMS = "claims/"
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


def log(key: str) -> str:
    return f"{LOGS}{key}.log"


def claims_of(key: str) -> str:
    return f"{CLAIMS}{key}/"


def claim(key: str, generation: int) -> str:
    return f"{claims_of(key)}{generation:06}"


def catalog(sha256: str) -> str:
    return f"{CATALOG}{sha256}.parquet"


def stem(path: str) -> str:
    """The key or hash by which an object of any kind but weights is named."""
    return path.rpartition("/")[2].partition(".")[0]


def owner(path: str) -> str:
    """The trial that a checkpoint, failure, log or claim is of."""
    return path.split("/")[1].partition(".")[0]


def probe(name: str) -> str:
    return f"{PROBES}{name}"
