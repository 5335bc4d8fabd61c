"""Trial keys: the SHA-256 of a spec's canonical JSON.

Canonical: keys sorted, no spaces, ASCII, fields that hold their default left out (so that a new
field with a default that changes nothing keeps every old key), no NaN or infinity, and nothing
that JSON cannot say exactly. A value of an unknown type is an error, never its `str()`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import TypeAdapter

from trainables.spec import KINDS, Kind, TrialSpec

_ADAPTERS: dict[Kind, TypeAdapter[Any]] = {kind: TypeAdapter(cls) for kind, cls in KINDS.items()}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}


def to_json(spec: TrialSpec) -> dict[str, Any]:
    """The spec as plain JSON values, its kind first, without the fields that hold their default."""
    kind = _KIND_OF[type(spec)]
    body = _ADAPTERS[kind].dump_python(spec, mode="json", exclude_defaults=True)
    return {"kind": kind, **body}


def from_json(data: dict[str, Any]) -> TrialSpec:
    """The inverse of `to_json`; raises `pydantic.ValidationError` for anything else."""
    body = dict(data)
    spec: TrialSpec = _ADAPTERS[body.pop("kind")].validate_python(body)
    return spec


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain values; ValueError for NaN, TypeError for what JSON has no form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def key_of(spec: TrialSpec) -> str:
    """64 hex digits that name the trial."""
    return hashlib.sha256(canonical(to_json(spec))).hexdigest()
