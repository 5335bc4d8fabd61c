"""Small tickets and records for store tests."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np

from orchestrator.plan.keys import canonical_json
from orchestrator.store.record import Record
from orchestrator.store.ticket import Ticket


def make_ticket(seed: int = 0, kind: str = "weights", *, scored: bool = False) -> Ticket:
    """Return a ticket of two small arrays that keeps about half of their units."""
    rng = np.random.default_rng(seed)
    scores = {"query": rng.random((7, 5)), "output": rng.random((3, 3))}
    return Ticket.from_arrays(
        {name: values > 0.5 for name, values in scores.items()},
        architecture="uniter",
        model_sha256="0" * 64,
        pool="encoder",
        kind=kind,
        scores={n: v.astype(np.float32) for n, v in scores.items()} if scored else None,
    )


def make_record(kind: str = "train", seed: int = 0, **fields: Any) -> Record:
    """Return the record of a trial that is identified by `kind` and `seed`."""
    spec: dict[str, Any] = {"kind": kind, "seed": seed}
    key = sha256(canonical_json(spec)).hexdigest()
    return Record(key=key, kind=kind, spec=spec, scores={"score": 87.25}, **fields)
