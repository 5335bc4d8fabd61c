"""Arrays inside msgpack and npz records, decoded from their bytes: plain numbers, never objects."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

_PLAIN = "fiub"
"""numpy's kinds of numbers and truth values."""


def packed(array: NDArray[Any]) -> dict[bytes, Any]:
    """What msgpack-numpy makes of a plain array; for `msgpack.packb(..., default=packed)`."""
    kind: dict[bytes, Any] = {b"nd": True, b"type": array.dtype.str, b"kind": b""}
    return kind | {b"shape": array.shape, b"data": array.tobytes()}


def unpacked(raw: Any) -> Any:
    """A msgpack record whose arrays msgpack-numpy packed; they are read-only.

    Raises ValueError, TypeError or KeyError if it is damaged or holds objects.
    """
    return msgpack.unpackb(raw, raw=False, object_hook=_array)


def as_npz(fields: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a compressed npz file."""
    with io.BytesIO() as stream:
        np.savez_compressed(stream, **dict(fields))  # type: ignore[arg-type]
        return stream.getvalue()


def from_npz(raw: Any, fields: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Those of `fields` that an npz file has: what numpy 1 compressed holds a member named
    `allow_pickle` too. Raises ValueError, EOFError or zipfile.BadZipFile if it is damaged."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as members:
        return {field: members[field] for field in fields if field in members}


def _array(mapping: dict[Any, Any]) -> Any:
    if b"nd" not in mapping:
        return mapping
    described, kind = mapping[b"type"], mapping.get(b"kind", b"")
    if not isinstance(described, str) or kind not in (b"", None):
        raise ValueError("an array of records")
    dtype = np.dtype(described)
    if dtype.kind not in _PLAIN:
        raise ValueError(f"an array of {described}")
    flat: NDArray[Any] = np.frombuffer(mapping[b"data"], dtype)
    return flat.reshape(mapping[b"shape"]) if mapping[b"nd"] else flat[0].item()
