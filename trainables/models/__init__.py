"""The models, by name. This module imports nothing heavy, because planning reads it too.

A model is a light entry beside a heavy module. The entry is a `ModelEntry`: configurations of its
sizes, pools of weights, inputs, style of its heads. `base.py` describes the module that it names.
To add a model to the package, write a folder `trainables/models/NAME/` with the entry `MODEL` in
`__init__.py` and the module in `model.py`, and add the entry to `MODELS`. A model from outside is
one file with both, or an entry point (see `trainables.registry`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainables.errors import ModelError, RecipeError, suggest
from trainables.models import lxmert, uniter, vilt
from trainables.models.entry import (
    EmbeddingExtension,
    HeadStyle,
    Modality,
    ModelConfig,
    ModelEntry,
    Shapes,
    depth_roles,
    pool_sizes_of,
)
from trainables.registry import Registry
from trainables.spec import ModelSpec, Recipe

__all__ = [
    "MODELS",
    "EmbeddingExtension",
    "HeadStyle",
    "Modality",
    "ModelConfig",
    "ModelEntry",
    "Shapes",
    "check_adversary",
    "check_model",
    "depth_roles",
    "extended_spec",
    "model_config",
    "pool_sizes",
]

MODELS: Registry[ModelEntry[Any]] = Registry(
    ModelEntry,
    group="sweepstakes.models",
    attribute="MODEL",
    builtin={"uniter": uniter.MODEL, "lxmert": lxmert.MODEL, "vilt": vilt.MODEL},
)


def model_config(spec: ModelSpec) -> ModelConfig:
    """Return the configuration of a model: that of its size, with its overrides.

    Raises ModelError for an unknown architecture, size or setting, and for values that are not
    allowed.
    """
    if spec.architecture not in MODELS:
        raise ModelError(f"no model {spec.architecture!r}; {suggest(spec.architecture, MODELS)}")
    config: ModelConfig = MODELS[spec.architecture].config(spec)
    return config


def extended_spec(spec: ModelSpec, extensions: Iterable[EmbeddingExtension]) -> ModelSpec:
    """Return a model whose embedding tables have the rows that a task adds."""
    config = model_config(spec)
    larger = {each.setting: getattr(config, each.setting) + each.extra_rows for each in extensions}
    return replace(spec, overrides=tuple(sorted((dict(spec.overrides) | larger).items())))


def check_model(spec: ModelSpec) -> None:
    """Raise ModelError for a model that cannot be built."""
    model_config(spec)


def check_adversary(recipe: Recipe, architecture: str) -> None:
    """Raise RecipeError if the recipe's adversary perturbs texts, which the model does not read."""
    texts = recipe.adversary in ("text", "both", "alternate")
    if texts and not MODELS[architecture].tokenizer:
        raise RecipeError(
            f"recipe.adversary = {recipe.adversary} perturbs texts, which {architecture} does not "
            "read; use image or none"
        )


def pool_sizes(spec: ModelSpec) -> Mapping[str, int]:
    """Return the number of weights in each pool of a model: pool -> count, overrides included.

    Raises the errors of `model_config`.
    """
    return pool_sizes_of(model_config(spec))
