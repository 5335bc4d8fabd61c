"""Trial keys: the SHA-256 of a spec's canonical JSON.

Canonical JSON has sorted keys, no spaces, and ASCII only. Fields that hold their default are left
out, so that a new field with a default that changes nothing keeps every old key. NaN, infinity and
values that JSON cannot represent exactly are errors; a value of an unknown type is never replaced
by its `str()`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from orchestrator.errors import InputError
from trainables.spec import SPEC_OF_KIND, TrialKind, TrialSpec

_ADAPTERS: dict[TrialKind, TypeAdapter[Any]] = {
    kind: TypeAdapter(cls) for kind, cls in SPEC_OF_KIND.items()
}
_KIND_OF = {cls: kind for kind, cls in SPEC_OF_KIND.items()}


def to_json(spec: TrialSpec) -> dict[str, Any]:
    """Return the spec as JSON values: its kind, then the fields that differ from their default."""
    kind = _KIND_OF[type(spec)]
    body = _ADAPTERS[kind].dump_python(spec, mode="json", exclude_defaults=True)
    return {"kind": kind, **body}


def from_json(data: dict[str, Any]) -> TrialSpec:
    """Return the spec that `to_json` turned into `data`.

    Raises:
        pydantic.ValidationError: `data` does not describe a spec.
    """
    body = dict(data)
    spec: TrialSpec = _ADAPTERS[body.pop("kind")].validate_python(body)
    return spec


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of plain values.

    Raises:
        ValueError: `value` contains NaN or infinity.
        TypeError: `value` contains a type that JSON cannot represent.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def canonical_sha256(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of plain values, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def match_prefix(prefix: str, keys: Iterable[str], what: str, missing: str) -> str:
    """Return the only key that starts with `prefix`.

    `what` names what the keys are keys of; `missing` says what to do if none matches.

    Raises:
        InputError: no key or several keys match.
    """
    matches = [key for key in keys if key.startswith(prefix)]
    if not matches:
        raise InputError(f"{prefix!r} does not match the key of any {what}; {missing}")
    if len(matches) > 1:
        examples = ", ".join(key[: len(prefix) + 6] for key in matches[:3])
        raise InputError(
            f"{prefix!r} matches the keys of {len(matches)} {what}s ({examples}, …); give more"
            " digits"
        )
    return matches[0]


def key_of(spec: TrialSpec) -> str:
    """Return the trial's key, 64 hex digits."""
    return canonical_sha256(to_json(spec))
