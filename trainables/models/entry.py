"""What planning knows of a model: its entry, its configurations and its pools of weights.

This module imports nothing heavy, because planning reads it too.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Generic, Literal, TypeAlias, TypeVar

from trainables.errors import ModelError, RecipeError, suggest
from trainables.spec import ModelSpec, Recipe

Modality: TypeAlias = Literal["regions", "pixels"]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape, in order of depth."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """The settings of a model at one size. A model subclasses it as a frozen dataclass.

    Its fields are the settings that `ModelSpec.overrides` may change. Each is a number, and an
    override is a positive, finite number of the same type.
    """

    @abstractmethod
    def pools(self) -> Mapping[str, Shapes]:
        """Return the pools of weights that can be pruned: pool -> the names and shapes of its
        tensors, in order of depth.

        The names are those of the backbone's parameters. A tensor may have any number of axes: a
        matrix has 2, the kernel of a 2-D convolution 4.
        """

    def problem(self) -> str:
        """Return which settings do not fit together and what to change; empty if all do."""
        return ""


Config = TypeVar("Config", bound=ModelConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadStyle:
    """What the task heads of a model's authors look like."""

    layers: Literal["linear", "gelu_norm", "norm_gelu"] = "linear"
    """Layers that map a pooled output to answers. `linear` is one linear layer; the others have a
    second one, and GELU and LayerNorm between the two in the order of the name."""
    pairs: Literal["concatenated", "attention"] = "concatenated"
    """How a task joins the sequences of two images: by concatenating their pooled outputs, or by
    attention between all of their tokens. Attention needs a model of regions, with a setting
    `num_attention_heads` that divides `hidden_size`."""
    loss: Literal["softmax", "binary"] = "softmax"
    """Loss over answers of which one is right: cross-entropy of their softmax, or binary
    cross-entropy of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingExtension:
    """Rows that a task adds to an embedding table of the backbone, as the official code does before
    it loads a checkpoint."""

    setting: str
    """The configuration setting for the number of rows."""
    weight: str
    extra_rows: int
    init_row: int | None
    """The row that the new rows copy; with None they are initialised at random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry(Generic[Config]):
    """What planning and tasks have to know of a model. `base.py` describes its module."""

    module: str
    """The module that builds and loads the network; it is imported when a trial runs."""
    sizes: Mapping[str, Config]
    """Size -> configuration."""
    modality: Modality
    """The image input: region features with boxes, or pixels."""
    tokenizer: str = ""
    """Tokenizer of the texts: `wordpiece-cased` or `wordpiece-uncased` as BERT's, or the name of
    another; empty for a model that reads no text."""
    formats: tuple[str, ...] = ()
    """Names of the data formats that the model reads, in order of preference. Tasks that make
    their own data need none."""
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Mean and standard deviation by which pixels of 0 to 1 are normalised, in RGB order; without
    meaning for a model of regions."""
    pool: str = "encoder+pooler"
    """The pool that a study prunes unless it names another, and whose tensors the shuffled controls
    permute. "encoder+pooler" is the pool of BERT-Tickets (Chen et al. 2020)."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameter group -> prefixes of the names of its tensors in the network, such as
    `backbone.pooler.`. A recipe can scale the learning rate of each group."""
    head: HeadStyle = HeadStyle()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    """Task -> the recipe for this model, for tasks whose own entry has none."""
    embedding_extensions: Mapping[str, tuple[EmbeddingExtension, ...]] = field(default_factory=dict)
    """Task -> the rows that it adds to this model's embedding tables, for tasks whose own entry has
    none. NLVR2 marks its second image (`image_kinds`) for a model whose tables it extends."""
    sequences: Mapping[str, int] = field(default_factory=dict)
    """Task -> number of sequences per training example, where the model's authors use another than
    the task's."""
    semantics: int = 1
    """Increase it when a change to the module alters results; it is part of every trial's key."""

    def config(self, spec: ModelSpec) -> Config:
        """Return the configuration of the spec's size with its overrides.

        Raises ModelError for an unknown size or setting, and for values that are not allowed.
        """
        if spec.size not in self.sizes:
            advice = suggest(spec.size, self.sizes)
            raise ModelError(f"model {spec.architecture}: no size {spec.size!r}; {advice}")
        config = self.sizes[spec.size]
        allowed = {each.name: type(getattr(config, each.name)) for each in fields(config)}
        for name, value in spec.overrides:
            if name not in allowed:
                raise ModelError(
                    f"model {spec.architecture}: no setting {name!r}; {suggest(name, allowed)}"
                )
            if (
                type(value) is not allowed[name]
                or isinstance(value, str)
                or not 0 < value < math.inf
            ):
                raise ModelError(
                    f"model {spec.architecture}: {name} = {value!r}; "
                    f"give a positive {allowed[name].__name__}"
                )
        if spec.overrides:
            config = replace(config, **dict(spec.overrides))
        if problem := config.problem() or self._head_problem(config):
            raise ModelError(f"model {spec.architecture}: {problem}")
        return config

    def _head_problem(self, config: Config) -> str:
        """Return why the model cannot have heads of its style; empty if it can."""
        if self.head.pairs == "attention":
            if self.modality != "regions":
                return (
                    f"head.pairs = attention needs regions, the model reads {self.modality}; "
                    "use concatenated"
                )
            heads = getattr(config, "num_attention_heads", 0)
            if not heads or getattr(config, "hidden_size", 0) % heads:
                return (
                    "head.pairs = attention needs a setting num_attention_heads that divides "
                    "hidden_size; add it to the configuration, or use concatenated"
                )
        return ""


def depth_roles(shapes: Shapes) -> list[list[str]]:
    """Group the names of tensors that have the same role in different layers: their shapes are
    equal, and their names differ only in the number of the layer.

    Raises RecipeError if no two tensors have the same role, so that none can be exchanged.
    """
    roles: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, shape in shapes.items():
        roles.setdefault((re.sub(r"\.\d+\.", ".#.", name), shape), []).append(name)
    if all(len(names) == 1 for names in roles.values()):
        raise RecipeError("start.shuffle = across_depth needs a model of two layers or more")
    return [*roles.values()]


@lru_cache(maxsize=256)
def pool_sizes_of(config: ModelConfig) -> Mapping[str, int]:
    """Return pool -> number of weights."""
    return {
        pool: sum(math.prod(shape) for shape in shapes.values())
        for pool, shapes in config.pools().items()
    }
