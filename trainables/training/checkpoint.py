"""Checkpoints and rewind points as safetensors bytes, without pickle. Equal states give equal
bytes.

All metadata is one JSON text under one key, because safetensors writes several keys in arbitrary
order. Weights are float32 masters by name, beside the persistent buffers, so a checkpoint can be
loaded at any ZeRO stage and precision.
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


def encode_checkpoint(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """Return `tensors` and `meta` as bytes. `meta` must be plain JSON; its floats are kept
    exactly."""
    text = json.dumps(meta, sort_keys=True, allow_nan=False)
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    payload: bytes = save(contiguous, {_KEY: text})
    return payload


def decode_checkpoint(payload: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Invert `encode_checkpoint`. Raises CheckpointError for bytes that it did not write."""
    try:
        tensors: dict[str, Tensor] = load(payload)
        size = int.from_bytes(payload[:8], "little")
        meta: dict[str, Any] = json.loads(json.loads(payload[8 : 8 + size])["__metadata__"][_KEY])
        if not isinstance(meta, dict):
            raise ValueError("its metadata is not a mapping")
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"weights of {len(payload)} bytes are damaged or not from Sweepstakes ({error}); "
            "delete the object so that it is produced again"
        ) from error
    return tensors, meta
