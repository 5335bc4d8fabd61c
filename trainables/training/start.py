"""Start weights of a run: random, published, or a rewind point; unchanged or shuffled.

Random and published weights are cached on CPU for the next run in this process. A returned tensor
may be such a shared copy: never write to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from trainables.data import fingerprint
from trainables.errors import CheckpointError, DataError
from trainables.models import MODELS, EmbeddingExtension, depth_roles, extended_spec
from trainables.models.base import Backbone
from trainables.models.checkpoint import Checkpoint
from trainables.seeds import derive, permutation
from trainables.spec import BACKBONE, ModelSpec, Start


def model_module(model: ModelSpec) -> ModuleType:
    """Import the module of the model's architecture."""
    return importlib.import_module(MODELS[model.architecture].module)


def init_backbone(model: ModelSpec, seed: int, dropout: float) -> Backbone:
    """Return a backbone with random weights drawn from `seed`."""
    torch.manual_seed(derive(seed, "backbone"))
    backbone: Backbone = model_module(model).build(model, dropout=dropout)
    backbone.dropout_rate = dropout
    return backbone


def extended_backbone(
    model: ModelSpec, extensions: Iterable[EmbeddingExtension], dropout: float
) -> Backbone:
    """Return a backbone whose embedding tables have the rows that a task adds. Its weights are
    still to be loaded."""
    return init_backbone(extended_spec(model, extensions), 0, dropout)


def extend_embeddings(
    state: dict[str, Tensor],
    extensions: Iterable[EmbeddingExtension],
    expected: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Return `state` with the rows that it lacks of each extended table. A rewind point of the task
    itself already has them."""
    for extension in extensions:
        name = BACKBONE + extension.weight
        table, rows = state[name], len(expected[extension.weight])
        missing = rows - len(table)
        if missing == 0:
            continue
        if extension.init_row is None:
            torch.manual_seed(derive(seed, "grow", extension.weight))
            new = torch.randn(missing, table.shape[1]) * table.std()
        else:
            new = table[extension.init_row].expand(missing, -1)
        state = state | {name: torch.cat([table, new])}
    return state


def start_weights(
    model: ModelSpec,
    start: Start,
    weights: Path | None,
    rewind: Mapping[str, Tensor] | None,
    prunable: Callable[[str], list[str]],
) -> dict[str, Tensor]:
    """Return `backbone.*`, and for a rewind point `head.*` too: weights in float32 and buffers, on
    CPU.

    `weights` is the file of a `pretrained` start, `rewind` the rewind point of a `rewind` start.
    `prunable` returns the names of a pool's tensors; a shuffle permutes the model's default pool.

    Raises DataError if the file at `weights` is not the one that the trial was planned for, and
    CheckpointError if it does not fit the model.
    """
    if start.kind == "init":
        state = _backbone_names(_random_weights(model, start.seed))
    elif start.kind == "pretrained":
        if weights is None:
            raise DataError("start weights: no checkpoint file was given; name it in the sweep")
        state = _backbone_names(load_published(model, start, weights).backbone)
    elif rewind is None:
        raise CheckpointError(f"start weights: the rewind point of {start.trial[:12]} is missing")
    else:
        state = dict(rewind)
    if start.shuffle != "none":
        names = [BACKBONE + name for name in prunable(MODELS[model.architecture].pool)]
        pool = {name: state[name] for name in names}
        if start.shuffle == "within_layer":
            state |= shuffle_within_layer(pool, start.shuffle_seed)
        else:
            state |= shuffle_across_depth(pool, start.shuffle_seed)
    return state


def shuffle_within_layer(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Permute the entries of each tensor (VLT Table 1, row 7)."""
    return {
        name: value.flatten()[
            torch.from_numpy(permutation(value.numel(), seed, "within", name))
        ].view_as(value)
        for name, value in weights.items()
    }


def shuffle_across_depth(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Exchange tensors whose names differ only in the layer number. A layer's tensors move
    together.

    BERT-Tickets' code draws any permutation of the layers, which may leave some of them in place
    (of two layers, both). Here the layers move along one random cycle, so that every one moves.
    """
    result = {}
    for names in depth_roles({name: tuple(value.shape) for name, value in weights.items()}):
        cycle = permutation(len(names), seed, "across")
        for target, source in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            result[names[target]] = weights[names[source]]
    return result


@lru_cache(maxsize=2)
def _random_weights(model: ModelSpec, seed: int) -> dict[str, Tensor]:
    return init_backbone(model, seed, dropout=0.0).state_dict()


def load_published(model: ModelSpec, start: Start, path: Path) -> Checkpoint:
    """Read the checkpoint file of a `pretrained` start, once per process."""
    return _read_published(model, path, start.weights, start.seed if start.fill else None)


@lru_cache(maxsize=2)
def _read_published(
    model: ModelSpec, path: Path, expected: str, fill_seed: int | None
) -> Checkpoint:
    fingerprint.check_unchanged(path, expected, "checkpoint")
    fill = None if fill_seed is None else _random_weights(model, fill_seed)
    checkpoint: Checkpoint = model_module(model).load(path, model, fill=fill)
    return checkpoint


def _backbone_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a backbone's weights under the names that they have in the network."""
    return {BACKBONE + name: value for name, value in state.items()}
