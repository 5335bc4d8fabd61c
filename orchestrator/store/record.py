"""The record of a committed trial: what it was, what it gave, what it cost.

A trial exists if and only if its record does. `result()` is what must be equal when two workers
commit the same trial; costs, environment and time may differ.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from orchestrator.errors import Damaged
from orchestrator.plan.keys import canonical
from orchestrator.store.advice import REPAIR

FORMAT = "sweepstakes-record/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class TicketRef:
    """A committed ticket: where its bits are, and how many weights it keeps."""

    sha256: str
    """Hash of the ticket's canonical content; `masks/sha256/<first two>/<hash>.parquet`."""
    kept: int
    total: int
    bytes: int
    """Size of the Parquet object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsRef:
    """Committed weights (safetensors): a rewind point."""

    path: str
    sha256: str
    """Hash of the object's bytes."""
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    key: str
    kind: str
    """`train`, `cut` or `rewind`."""
    spec: dict[str, Any]
    """The trial's identity, as it was hashed."""
    about: dict[str, str | int] = field(default_factory=dict)
    """Labels for people: sweep, model, task, level."""
    parents: tuple[str, ...] = ()
    ticket: TicketRef | None = None
    """Of a cut: the ticket. Of a training run: the ticket it wore."""
    weights: WeightsRef | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """Of a training run: `score` (by the recipe's rule), `last`, `best`, `best_step`, `prior`
    (the score without looking at the image), and the task's own break-down."""
    history: tuple[dict[str, float], ...] = ()
    """Of a training run: `{step, loss, lr}` and, where it was evaluated, `score`."""
    checks: dict[str, str | int] = field(default_factory=dict)
    """`pruned_nonzero` (0, or the trial would have failed), `start_sha256`, `final_sha256`."""
    costs: dict[str, float] = field(default_factory=dict)
    """`seconds`, `steps`, `evaluation_seconds`, `peak_rss_mb`; `gpus` where some were used."""
    environment: dict[str, str] = field(default_factory=dict)
    """Library versions and hardware."""
    created: str = ""
    """UTC, ISO 8601."""

    def result(self) -> dict[str, Any]:
        """What the trial's identity decides: equal for every run of it on one kind of machine."""
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
_HEAD = f'{{"format":"{FORMAT}","record":'.encode()
_TAIL = len(b',"sha256":""}') + 64
"""Bytes after the body."""


def encode(record: Record) -> bytes:
    """The record as canonical JSON, with the SHA-256 of its body beside it.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON cannot say.
    """
    try:
        return _sealed(canonical(_ADAPTER.dump_python(record, mode="json", exclude_defaults=True)))
    except ValueError as error:
        raise ValueError(f"record of trial {record.key}: {error}") from error


def decode(data: bytes, *, where: str) -> Record:
    """The inverse of `encode`; `where` names the object in errors.

    Hashes the body as it stands and parses it once: 30 us, where making canonical JSON of it again
    took 130, and the report of a large sweep reads 100,000.

    Raises:
        Damaged: it is no record, or not the one that was written.
    """
    body = data[len(_HEAD) : -_TAIL]
    if not data.startswith(_HEAD):
        reason = f"it does not begin as {FORMAT!r} does"
    elif data != _sealed(body):
        reason = "its content does not have the hash it states"
    else:
        try:
            return _ADAPTER.validate_json(body)
        except ValueError as error:  # pydantic's is one
            reason = str(error).strip().partition("\n")[0]
    raise Damaged(f"{where}: damaged record ({reason}); {REPAIR}")


def _sealed(body: bytes) -> bytes:
    return _HEAD + body + f',"sha256":"{hashlib.sha256(body).hexdigest()}"}}'.encode()
