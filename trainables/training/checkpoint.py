"""State as safetensors bytes: no pickle, and equal state gives equal bytes.

All metadata is one JSON text under one key, because safetensors writes several keys in no fixed
order. Tensors are float32 masters by name, so a checkpoint fits any ZeRO stage and precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trainables.errors import CheckpointError

_KEY = "sweepstakes"


def encode(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """`meta` must be plain JSON values; its floats come back exactly."""
    text = json.dumps(meta, sort_keys=True, allow_nan=False)
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    payload: bytes = save(contiguous, {_KEY: text})
    return payload


def decode(payload: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `encode`; CheckpointError for anything that it did not write."""
    try:
        tensors: dict[str, Tensor] = load(payload)
        size = int.from_bytes(payload[:8], "little")
        meta: dict[str, Any] = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"][_KEY])
        if not isinstance(meta, dict):
            raise ValueError("its metadata are no mapping")
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"weights of {len(payload)} bytes are damaged or not ours ({error}); "
            "delete the object so that it is made again"
        ) from error
    return tensors, meta
