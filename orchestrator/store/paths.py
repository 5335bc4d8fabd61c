"""Layout of a store. Objects under the first three prefixes never change once written."""

from __future__ import annotations

TICKETS = "masks/sha256/"
RECORDS = "trials/"
WEIGHTS = "weights/"
CHECKPOINTS = "checkpoints/"
FAILURES = "failures/"
LOGS = "logs/"
LEASES = "leases/"
CATALOG = "catalog/"
PROBES = "probe/"


def ticket(sha256: str) -> str:
    return f"{TICKETS}{sha256[:2]}/{sha256}.parquet"


def record(key: str) -> str:
    return f"{RECORDS}{key}.json"


def weights(key: str, step: int, sha256: str) -> str:
    """The name includes the hash: a run that failed after writing its rewind point, and is repeated
    on another kind of machine, must be able to write slightly different weights."""
    return f"{WEIGHTS}{key}/{step}-{sha256[:16]}.safetensors"


def checkpoint(key: str) -> str:
    return f"{CHECKPOINTS}{key}.safetensors"


def failure(key: str) -> str:
    return f"{FAILURES}{key}.json"


def log(key: str) -> str:
    return f"{LOGS}{key}.log"


def leases_of(key: str) -> str:
    return f"{LEASES}{key}/"


def lease(key: str, generation: int) -> str:
    return f"{leases_of(key)}{generation:06}"


def catalog(sha256: str) -> str:
    return f"{CATALOG}{sha256}.parquet"


def stem(path: str) -> str:
    """The key or hash that names an object of any kind except weights."""
    return path.rpartition("/")[2].partition(".")[0]


def trial_key(path: str) -> str:
    """The key of the trial that a checkpoint, failure, log or lease belongs to."""
    return path.split("/")[1].partition(".")[0]


def probe(name: str) -> str:
    return f"{PROBES}{name}"
