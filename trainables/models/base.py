"""What every architecture module offers, and what they share: configs, pools, first weights.

A module `trainables.models.NAME` has

* `CONFIGS: dict[str, Config]`: the configuration of each size;
* `build(spec, *, dropout) -> Backbone`: weights drawn from torch's current generator, which the
  caller seeds;
* `load(path, spec) -> dict[str, Tensor]`: a published checkpoint file as a float32 state dict of
  that backbone, or CheckpointError;
* `save_pretrained(state, spec, folder)`: the inverse for transformers' `from_pretrained`, or
  CheckpointError where transformers has no such class.

The names in a backbone's state dict are those a ticket of it uses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trainables.errors import TrainableError
from trainables.models import POOLS, Modality
from trainables.spec import ModelSpec


class Backbone(nn.Module, ABC):
    """The interface of a model without its task head; it carries no implementation.

    `forward` takes a batch of B examples with T text tokens: `input_ids` (B, T) int64, `text_mask`
    (B, T) bool, True at tokens; and what its modality needs:

    * regions: `region_features` (B, N, region_dim) and `region_boxes` (B, N, 7), optionally
      `region_mask` (B, N) bool, True at regions;
    * pixels: `pixel_values` (B, 3, image_size, image_size).

    Floating-point inputs of any dtype are cast to that of the weights. It returns the pooled
    output (B, hidden_size).
    """

    modality: Modality
    hidden_size: int
    vocab_size: int
    max_text: int
    """Most text tokens, [CLS] and [SEP] included."""
    region_dim: int
    """0 where the modality has no regions."""
    image_size: int
    """Side in pixels; 0 where the modality has no pixels."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Tensor: ...

    @abstractmethod
    def prunable(self, pool: str) -> list[str]:
        """Names of the pool's weights, all 2-D, in order of depth. TrainableError if unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockConfig:
    """Sizes of a BERT-shaped encoder and its text embeddings; names as in transformers."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    initializer_range: float = 0.02


TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 128,
    "max_position_embeddings": 32,
    # 1 / sqrt(hidden_size). With BERT's 0.02, meant for 768 and more, such a small network leaves
    # its first plateau late: see the recipe in trainables/tasks.
    "initializer_range": 0.125,
}
"""The encoder of every model's size for tests and laptops."""

Config = TypeVar("Config", bound=BlockConfig)


def resolve(configs: Mapping[str, Config], spec: ModelSpec) -> Config:
    """The configuration of `spec`'s size with its overrides; TrainableError if it cannot be."""
    if spec.size not in configs:
        raise TrainableError(
            f"model {spec.architecture}: no size {spec.size!r}; sizes: {', '.join(configs)}"
        )
    config = configs[spec.size]
    allowed = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    for name, value in spec.overrides:
        if name not in allowed:
            raise TrainableError(
                f"model {spec.architecture}: no setting {name!r}; settings: {', '.join(allowed)}"
            )
        if type(value) is not allowed[name] or isinstance(value, str) or value <= 0:
            raise TrainableError(
                f"model {spec.architecture}: {name} = {value!r}; "
                f"give a positive {allowed[name].__name__}"
            )
    values: dict[str, Any] = dict(spec.overrides)
    config = replace(config, **values)
    if config.hidden_size % config.num_attention_heads:
        raise TrainableError(
            f"model {spec.architecture}: hidden_size {config.hidden_size} is not a multiple of "
            f"num_attention_heads {config.num_attention_heads}; change one of them"
        )
    return config


def encoder_pool(model: nn.Module, pool: str) -> list[str]:
    """Names of the matrices of `model.encoder`, and `model.pooler`'s for `encoder+pooler`."""
    if pool not in POOLS:
        raise TrainableError(f"no pool of weights {pool!r}; pools: {', '.join(POOLS)}")
    parts = ("encoder.", "pooler.")[: 1 + POOLS.index(pool)]
    named = model.named_parameters()
    return [name for name, weight in named if name.startswith(parts) and weight.dim() == 2]


def draw_weights(model: nn.Module, std: float) -> None:
    """BERT's first weights, from torch's current generator: matrices normal(0, std), LN 1 and 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx] = 0
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
