"""Reading published weights files without unpickling them and without guessing their layout."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from trainables.errors import CheckpointError
from trainables.spec import ModelSpec

_BESIDE_WEIGHTS = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|sacred|omegaconf|numpy\.dtypes)\..+"
    r"|argparse\.Namespace|pathlib\.(Pure)?(Posix|Windows)Path|collections\.defaultdict"
    r"|builtins\.(bool|dict|float|int|list|object|str|tuple)"
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
)
"""Names in the pickle of a training run's file that belong to what it stores beside the weights.

ViLT's own runs wrote their files with Lightning 1.1.4, which keys the states of its callbacks by
their classes and stores the run's configuration (`trainer/connectors/checkpoint_connector.py`).
"""
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of a published file, split into backbone and heads: float32, except for buffers
    of integers, on the CPU."""

    backbone: dict[str, Tensor]
    """The model's complete state dict."""
    heads: dict[str, Tensor]
    """Weights of pre-training heads, under the file's names without a model prefix, such as
    `cls.predictions.bias`; a task takes those that it uses (`Task.init_from_pretrained`)."""


def load_checkpoint(
    path: Path,
    spec: ModelSpec,
    build: Callable[..., nn.Module],
    *,
    prefixes: tuple[str, ...],
    heads: tuple[str, ...],
    convert: Callable[[str, Tensor], Mapping[str, Tensor]] = lambda name, value: {name: value},
    fill: Mapping[str, Tensor] | None,
) -> Checkpoint:
    """Load the weights of the model that the architecture's `build` gives for `spec`.

    `prefixes` are removed from the names. Weights whose name then begins with one of `heads` become
    `Checkpoint.heads`; `convert` is applied to the others. Raises CheckpointError unless these
    match the model's state dict in names and shapes.
    """
    with torch.device("meta"):
        expected = build(spec, dropout=0.0).state_dict()
    backbone_weights: dict[str, Tensor] = {}
    head_weights: dict[str, Tensor] = {}
    for name, value in read_tensors(path).items():
        plain = _plain_name(name, prefixes)
        if plain.endswith("position_ids"):  # a buffer of older transformers, 0, 1, 2, ...
            continue
        if plain.startswith(heads):
            head_weights[plain] = value.to(torch.float32)
        else:
            backbone_weights.update(convert(plain, value))
    backbone = fit_state_dict(backbone_weights, expected, path=path, spec=spec, fill=fill)
    return Checkpoint(backbone, head_weights)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` or torch file to torch's default device, the CPU unless
    the caller sets another: on `meta`, their names and shapes are read without their values.

    A Lightning file holds them under `state_dict`, a file of UNITER's second pre-training under
    `model_state`. What a training run stores beside them is dropped. Raises CheckpointError if the
    file is missing or damaged, or if loading it would run arbitrary code.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; check the path")
    try:
        loaded = _parse(path)
    except (
        *(OSError, RuntimeError, EOFError, TypeError, ValueError),
        *(pickle.UnpicklingError, SafetensorError),
    ) as error:
        raise CheckpointError(
            f"{path}: not a weights file that can be read without running code in it "
            f"({_reason(error)}); save its state dict alone, as safetensors"
        ) from error
    for wrapper in ("state_dict", "model_state"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    tensors = loaded if isinstance(loaded, dict) else {}
    named = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if not named:
        raise CheckpointError(f"{path}: holds no named tensors; give a model's state dict")
    return named


def fit_state_dict(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    path: Path,
    spec: ModelSpec,
    fill: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Return `weights` in the dtypes and the order of `expected`.

    Missing weights are taken from `fill` where it is given. Raises CheckpointError if names or
    shapes differ, or if none of the names is expected: the file is then another model's.
    """
    if fill is not None and not weights.keys().isdisjoint(expected):
        weights = {**fill, **weights}
    problems = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected
            if name in weights and weights[name].shape != expected[name].shape
        ],
    }
    wrong = {what: names for what, names in problems.items() if names}
    if wrong:
        summary = "; ".join(
            f"{len(names)} {what} ({_first_names(names)})" for what, names in wrong.items()
        )
        advice = "give a checkpoint of that model, or change the model's size or overrides"
        if wrong.keys() == {"missing"} and fill is None:
            advice += ", or write fill: true next to its weights to initialise the missing ones"
        raise CheckpointError(
            f"{path}: does not fit model {spec.architecture} {spec.size}: {summary}; {advice}"
        )
    return {name: weights[name].to(each.dtype).contiguous() for name, each in expected.items()}


def _plain_name(name: str, prefixes: tuple[str, ...]) -> str:
    """Remove the prefixes, and rename LayerNorms' gamma and beta of old files."""
    for prefix in ("module.", *prefixes):  # DataParallel's comes first
        name = name.removeprefix(prefix)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _parse(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    with torch.serialization.safe_globals(_stubs(path)):
        return torch.load(path, map_location=torch.get_default_device(), weights_only=True)


def _safetensors(path: Path) -> dict[str, Tensor]:
    if torch.get_default_device().type != "meta":
        return load_file(path)
    with safe_open(path, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {name: torch.empty(shape) for name, shape in shapes.items()}


def _stubs(path: Path) -> list[Any]:
    """Return a class without code for each name in the file that `_BESIDE_WEIGHTS` lists. The
    classes and functions of these names are never imported."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        return []  # `torch.load` says what is wrong, or reads a file from before torch 1.6
    return [_stub(name) for name in names if _BESIDE_WEIGHTS.fullmatch(name)]


def _stub(name: str) -> tuple[type, str]:
    # torch fills only its own three kinds of mappings, so the stub of a mapping makes one of them.
    is_mapping = name.lower().endswith("dict")
    base = _MappingStub if is_mapping else _ObjectStub
    return type(name.rpartition(".")[2], (base,), {}), name


class _ObjectStub:
    """An object that keeps nothing of what it is made from."""

    def __new__(cls, *args: object) -> _ObjectStub:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _MappingStub:
    def __new__(cls, *args: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


def _reason(error: Exception) -> str:
    """Return why a file was refused, in one short line. torch's own text has several lines, codes
    for bold print, and advice to switch the protection off."""
    text = _TERMINAL_CODE.sub("", str(error)).strip()
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"it refers to {refused[1][:120]}"
    text = text.rpartition("WeightsUnpickler error:")[2].strip()
    return text.partition("\n")[0][:120].strip() or type(error).__name__


def _first_names(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:2]) + (", ..." if len(listed) > 2 else "")
