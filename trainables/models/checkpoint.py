"""Reading weights files from outside: never by unpickling, and never by guessing."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainables.errors import CheckpointError
from trainables.spec import ModelSpec


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or torch file, on the CPU.

    A Lightning file holds them under `state_dict`. Raises CheckpointError if the file is missing,
    damaged, or needs arbitrary code to load.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; check the path")
    try:
        loaded = _parse(path)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0][:120]
        raise CheckpointError(
            f"{path}: not a weights file that can be read without running code in it ({first}); "
            "save its state dict alone, as safetensors"
        ) from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    kept = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not kept:
        raise CheckpointError(f"{path}: holds no named tensors; give a model's state dict")
    return kept


def fit(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, path: Path, spec: ModelSpec
) -> dict[str, Tensor]:
    """`found` in float32 and in the order of `expected`, or CheckpointError if they differ."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ],
    }
    told = "; ".join(
        f"{len(names)} {what} ({_some(names)})" for what, names in problems.items() if names
    )
    if told:
        raise CheckpointError(
            f"{path}: does not fit model {spec.architecture} {spec.size}: {told}; "
            "give a checkpoint of that model, or change the model's size or overrides"
        )
    return {name: found[name].to(torch.float32).contiguous() for name in expected}


def _parse(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:2]) + (", ..." if len(listed) > 2 else "")
