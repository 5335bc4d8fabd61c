"""The weights a run starts from: drawn, published, or a rewind point; plain or shuffled.

Drawn and published weights are kept on CPU for the next run in this process. What is returned may
be such a shared copy: read it, never write to it.
"""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from trainables.data import fingerprint
from trainables.errors import CheckpointError, DataError, RecipeError
from trainables.models import MODELS
from trainables.models.base import Backbone, resolve
from trainables.models.checkpoint import Checkpoint
from trainables.seeds import derive, permutation
from trainables.spec import ModelSpec, Start
from trainables.tasks import Growth

SHUFFLED_POOL = "encoder+pooler"


def model_module(model: ModelSpec) -> ModuleType:
    return importlib.import_module(MODELS[model.architecture].module)


def drawn_backbone(model: ModelSpec, seed: int, dropout: float) -> Backbone:
    torch.manual_seed(derive(seed, "backbone"))
    backbone: Backbone = model_module(model).build(model, dropout=dropout)
    return backbone


def grown_backbone(model: ModelSpec, growths: Iterable[Growth], dropout: float) -> Backbone:
    """A backbone with the rows that a task adds to its tables; its weights are yet to be loaded."""
    module = model_module(model)
    config = resolve(module.CONFIGS, model)
    larger = {growth.setting: getattr(config, growth.setting) + growth.extra for growth in growths}
    overrides = tuple(sorted((dict(model.overrides) | larger).items()))
    return drawn_backbone(replace(model, overrides=overrides), 0, dropout)


def grow(
    state: dict[str, Tensor], growths: Iterable[Growth], expected: Mapping[str, Tensor], seed: int
) -> dict[str, Tensor]:
    """`state` with the rows that it lacks of each grown table; a rewind point of the task itself
    has them already."""
    for growth in growths:
        name = f"backbone.{growth.weight}"
        table, rows = state[name], len(expected[growth.weight])
        missing = rows - len(table)
        if missing == 0:
            continue
        if growth.like is None:
            torch.manual_seed(derive(seed, "grow", growth.weight))
            new = torch.randn(missing, table.shape[1]) * table.std()
        else:
            new = table[growth.like].expand(missing, -1)
        state = state | {name: torch.cat([table, new])}
    return state


def start_weights(
    model: ModelSpec,
    start: Start,
    weights: Path | None,
    rewind: Mapping[str, Tensor] | None,
    prunable: Callable[[str], list[str]],
) -> dict[str, Tensor]:
    """`backbone.*`, and for a rewind point `head.*` too: float32, on CPU.

    Raises DataError if the file at `weights` is not the one the trial was planned for, and
    CheckpointError if it does not fit the model.
    """
    if start.kind == "init":
        state = _named("backbone", _drawn(model, start.seed))
    elif start.kind == "pretrained":
        if weights is None:
            raise DataError("start weights: no checkpoint file was given; name it in the sweep")
        state = _named("backbone", published(model, start, weights).backbone)
    elif rewind is None:
        raise CheckpointError(f"start weights: the rewind point of {start.trial[:12]} is missing")
    else:
        state = dict(rewind)
    if start.shuffle != "none":
        names = [f"backbone.{name}" for name in prunable(SHUFFLED_POOL)]
        shuffle = {"within_layer": within_layer, "across_depth": across_depth}[start.shuffle]
        state |= shuffle({name: state[name] for name in names}, start.shuffle_seed)
    return state


def within_layer(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Each tensor with its entries permuted (VLT Table 1, row 7)."""
    return {
        name: value.flatten()[
            torch.from_numpy(permutation(value.numel(), seed, "within", name))
        ].view_as(value)
        for name, value in weights.items()
    }


def across_depth(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Tensors that differ in their layer number only trade places, a layer's together.

    BERT-Tickets' code draws any permutation of the layers, which may leave some, or all of two,
    where they were; here the layers go round one random cycle, so that every one moves.
    """
    roles: dict[tuple[str, torch.Size], list[str]] = defaultdict(list)
    for name, value in weights.items():
        roles[re.sub(r"\.\d+\.", ".#.", name), value.shape].append(name)
    if all(len(names) == 1 for names in roles.values()):
        raise RecipeError("start.shuffle = across_depth needs a model of two layers or more")
    result = {}
    for names in roles.values():
        cycle = permutation(len(names), seed, "across")
        for here, source in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            result[names[here]] = weights[names[source]]
    return result


@lru_cache(maxsize=2)
def _drawn(model: ModelSpec, seed: int) -> dict[str, Tensor]:
    return drawn_backbone(model, seed, dropout=0.0).state_dict()


def published(model: ModelSpec, start: Start, path: Path) -> Checkpoint:
    """The checkpoint file of a `pretrained` start, read once per process."""
    return _read(model, path, start.weights, start.seed if start.fill else None)


@lru_cache(maxsize=2)
def _read(model: ModelSpec, path: Path, planned: str, fill_seed: int | None) -> Checkpoint:
    fingerprint.check(path, planned, "checkpoint")
    fill = None if fill_seed is None else _drawn(model, fill_seed)
    checkpoint: Checkpoint = model_module(model).load(path, model, fill=fill)
    return checkpoint


def _named(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{part}.{name}": value for name, value in state.items()}
