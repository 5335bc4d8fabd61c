"""Encode and decode arrays in msgpack and npz records: numbers only, never Python objects."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

_NUMERIC_KINDS = "fiub"
"""numpy's dtype kinds of numbers and booleans."""


def pack_array(array: NDArray[Any]) -> dict[bytes, Any]:
    """Encode an array as msgpack-numpy does; for `msgpack.packb(..., default=pack_array)`."""
    record_kind: dict[bytes, Any] = {b"nd": True, b"type": array.dtype.str, b"kind": b""}
    return record_kind | {b"shape": array.shape, b"data": array.tobytes()}


def unpack_record(data: Any) -> Any:
    """Decode a msgpack record with arrays packed by msgpack-numpy; the arrays are read-only.

    Raises ValueError, TypeError or KeyError if the record is damaged or contains objects.
    """
    return msgpack.unpackb(data, raw=False, strict_map_key=False, object_hook=_array)


def unpack_arrays(data: Any, fields: Iterable[str]) -> dict[str, Any]:
    """Decode those of `fields` that a msgpack record has, as `unpack_record` does. Others, of any
    type, are skipped."""
    record = msgpack.unpackb(data, raw=False, strict_map_key=False)
    if not isinstance(record, dict):
        raise ValueError("not a mapping")
    kept = {field: record[field] for field in fields if field in record}
    return {
        name: _array(value) if isinstance(value, dict) else value for name, value in kept.items()
    }


def to_npz(fields: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the bytes of a compressed npz file."""
    with io.BytesIO() as stream:
        np.savez_compressed(stream, **dict(fields))  # type: ignore[arg-type]
        return stream.getvalue()


def from_npz(data: Any, fields: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return those of `fields` that an npz file has. Files that numpy 1 compressed also have a
    member named `allow_pickle`. Raises ValueError, EOFError or zipfile.BadZipFile if the file is
    damaged."""
    with np.load(io.BytesIO(data), allow_pickle=False) as members:
        return {field: members[field] for field in fields if field in members}


def _array(mapping: dict[Any, Any]) -> Any:
    if b"nd" not in mapping:
        return mapping
    dtype_name, record_kind = mapping[b"type"], mapping.get(b"kind", b"")
    if not isinstance(dtype_name, str) or record_kind not in (b"", None):
        raise ValueError("an array of records")
    dtype = np.dtype(dtype_name)
    if dtype.kind not in _NUMERIC_KINDS:
        raise ValueError(f"an array of {dtype_name}")
    flat: NDArray[Any] = np.frombuffer(mapping[b"data"], dtype)
    return flat.reshape(mapping[b"shape"]) if mapping[b"nd"] else flat[0].item()
