"""The record of a committed trial: its identity, results and costs.

A trial exists if and only if its record does. When two workers commit the same trial, `result()`
must be equal; costs, environment and time may differ.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from orchestrator.errors import Damaged
from orchestrator.plan.keys import canonical_json
from orchestrator.store.advice import REPAIR

RECORD_FORMAT = "sweepstakes-record/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketRef:
    """Reference to a committed ticket, with the number of weights it keeps."""

    sha256: str
    """Hash of the ticket's canonical content; `masks/sha256/<first two>/<hash>.parquet`."""
    kept: int
    total: int
    bytes: int
    """Size of the Parquet object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsRef:
    """Reference to committed weights (safetensors): a rewind point."""

    path: str
    sha256: str
    """Hash of the object's bytes."""
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    key: str
    kind: str
    """`train`, `prune` or `rewind`."""
    spec: dict[str, Any]
    """The trial's identity, as it was hashed."""
    labels: dict[str, str | int] = field(default_factory=dict)
    """For display and queries: sweep, model, task, level."""
    parents: tuple[str, ...] = ()
    ticket: TicketRef | None = None
    """Prune trial: the ticket it produced. Training run: the ticket applied to it."""
    weights: WeightsRef | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """Training run, in percent: `score` (by the recipe's rule), `last`, `best`, `prior` (the score
    of a baseline without the image) and the task's own breakdown; also `best_step`."""
    history: tuple[dict[str, float], ...] = ()
    """Training run: `{step, loss, lr}` and, for evaluated steps, `score`."""
    checks: dict[str, str | int] = field(default_factory=dict)
    """Training run: `pruned_nonzero` (0, or the trial would have failed), and the hashes
    `theta_sha256` of all start weights, `start_sha256` of those that the ticket keeps, and
    `final_sha256` of the final weights."""
    costs: dict[str, float] = field(default_factory=dict)
    """Training run: `seconds`, `steps`, `evaluation_seconds`, `checkpoints`, `checkpoint_seconds`,
    `peak_rss_mb`, `gpus` (0 on CPUs), and on CUDA `gpu_peak_mb`. Prune trial without a training
    run: `seconds`."""
    environment: dict[str, str] = field(default_factory=dict)
    """Library versions and hardware."""
    created_at: str = ""
    """UTC, ISO 8601."""

    def result(self) -> dict[str, Any]:
        """What the trial's identity determines: equal for every run on one kind of machine."""
        return {
            "spec": self.spec,
            "parents": list(self.parents),
            "ticket": self.ticket and self.ticket.sha256,
            "weights": self.weights and self.weights.sha256,
            "scores": self.scores,
            "history": list(self.history),
            "checks": self.checks,
        }


_ADAPTER = TypeAdapter(Record)
_PREFIX = f'{{"format":"{RECORD_FORMAT}","record":'.encode()
_SUFFIX_BYTES = len(b',"sha256":""}') + 64
"""Number of bytes after the body."""


def encode_record(record: Record) -> bytes:
    """Return the record as canonical JSON, followed by the SHA-256 of its body.

    Raises:
        ValueError: a number in the record is NaN or infinite, which JSON cannot represent.
    """
    try:
        return _with_hash(
            canonical_json(_ADAPTER.dump_python(record, mode="json", exclude_defaults=True))
        )
    except ValueError as error:
        raise ValueError(f"record of trial {record.key}: {error}") from error


def decode_record(data: bytes, *, where: str) -> Record:
    """Inverse of `encode_record`; `where` names the object in errors.

    The body is hashed as stored and parsed once, which takes 30 us; encoding it to canonical JSON
    again takes 130 us, and the report of a large sweep reads 100,000 records.

    Raises:
        Damaged: this is not a record, or not the one that was written.
    """
    body = data[len(_PREFIX) : -_SUFFIX_BYTES]
    if not data.startswith(_PREFIX):
        reason = f"its format is not {RECORD_FORMAT!r}"
    elif data != _with_hash(body):
        reason = "its content does not match its hash"
    else:
        try:
            return _ADAPTER.validate_json(body)
        except ValueError as error:  # includes pydantic's ValidationError
            reason = str(error).strip().partition("\n")[0]
    raise Damaged(f"{where}: damaged record ({reason}); {REPAIR}")


def _with_hash(body: bytes) -> bytes:
    return _PREFIX + body + f',"sha256":"{hashlib.sha256(body).hexdigest()}"}}'.encode()
