"""Reading weights files from outside: never by unpickling, and never by guessing."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainables.errors import CheckpointError
from trainables.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A published file, sorted: float32, on the CPU."""

    backbone: dict[str, Tensor]
    """The model's own state dict, complete."""
    heads: dict[str, Tensor]
    """Weights of pre-training heads by the file's own names without a model prefix, such as
    `cls.predictions.bias`; a task takes what it continues (`Task.adopt`)."""


def load_checkpoint(
    path: Path,
    spec: ModelSpec,
    expected: Mapping[str, Tensor],
    *,
    prefixes: tuple[str, ...],
    heads: tuple[str, ...],
    convert: Callable[[str, Tensor], Mapping[str, Tensor]] = lambda name, value: {name: value},
    fill: Mapping[str, Tensor] | None,
) -> Checkpoint:
    """The file's weights for a model whose state dict has the names and shapes of `expected`.

    Names lose `prefixes`; those that then begin with one of `heads` are set aside, the others go
    through `convert`. Raises CheckpointError unless they fit.
    """
    found: dict[str, Tensor] = {}
    aside: dict[str, Tensor] = {}
    for name, value in read(path).items():
        plain = _plain(name, prefixes)
        if plain.endswith("position_ids"):  # a buffer of older transformers, 0, 1, 2, ...
            continue
        if plain.startswith(heads):
            aside[plain] = value.to(torch.float32)
        else:
            found.update(convert(plain, value))
    return Checkpoint(fit(found, expected, path=path, spec=spec, fill=fill), aside)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or torch file, on the CPU.

    A Lightning file holds them under `state_dict`, UNITER's of a second pre-training under
    `model_state`. Raises CheckpointError if the file is missing, damaged, or needs arbitrary code
    to load.
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
    for wrapper in ("state_dict", "model_state"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    tensors = loaded if isinstance(loaded, dict) else {}
    kept = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not kept:
        raise CheckpointError(f"{path}: holds no named tensors; give a model's state dict")
    return kept


def fit(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    path: Path,
    spec: ModelSpec,
    fill: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """`found` in float32 and in the order of `expected`, or CheckpointError if they differ.

    What `found` lacks is taken from `fill` where that is given; a file that lacks everything is
    another model's.
    """
    if fill is not None and not found.keys().isdisjoint(expected):
        found = {**fill, **found}
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {tuple(found[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ],
    }
    wrong = {what: names for what, names in problems.items() if names}
    if wrong:
        told = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in wrong.items())
        cure = "give a checkpoint of that model, or change the model's size or overrides"
        if wrong.keys() == {"missing"} and fill is None:
            cure += ", or write fill: true beside its weights to draw what is missing"
        raise CheckpointError(
            f"{path}: does not fit model {spec.architecture} {spec.size}: {told}; {cure}"
        )
    return {name: found[name].to(torch.float32).contiguous() for name in expected}


def _plain(name: str, prefixes: tuple[str, ...]) -> str:
    """Without the prefixes, and with today's names of what old files call gamma and beta."""
    for prefix in ("module.", *prefixes):  # DataParallel's comes first
        name = name.removeprefix(prefix)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _parse(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:2]) + (", ..." if len(listed) > 2 else "")
