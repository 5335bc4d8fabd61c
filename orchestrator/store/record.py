"""The record of a committed trial: what it was, what it gave, what it cost.

A trial exists if and only if its record does. `result()` is what must be equal when two workers
commit the same trial; costs, environment and time may differ.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from orchestrator.errors import Damaged
from orchestrator.identity import canonical
from orchestrator.store.cures import REPAIR

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


def encode(record: Record) -> bytes:
    """The record as canonical JSON, with the SHA-256 of its body beside it.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON cannot say.
    """
    try:
        body = _ADAPTER.dump_python(record, mode="json", exclude_defaults=True)
        digest = hashlib.sha256(canonical(body)).hexdigest()
    except ValueError as error:
        raise ValueError(f"record of trial {record.key}: {error}") from error
    return canonical({"format": FORMAT, "record": body, "sha256": digest})


def decode(data: bytes, *, where: str) -> Record:
    """The inverse of `encode`; `where` names the object in errors.

    Raises:
        Damaged: it is no record, or not the one that was written.
    """
    try:
        outer = json.loads(data)
        if outer["format"] != FORMAT:
            raise ValueError(f"its format is {outer['format']!r}, not {FORMAT!r}")
        if hashlib.sha256(canonical(outer["record"])).hexdigest() != outer["sha256"]:
            raise ValueError("its content does not have the hash it states")
        record: Record = _ADAPTER.validate_python(outer["record"])
    except (ValueError, KeyError, TypeError) as error:  # pydantic's and json's are ValueErrors
        reason = str(error).strip().partition("\n")[0]
        raise Damaged(f"{where}: damaged record ({reason}); {REPAIR}") from error
    return record
