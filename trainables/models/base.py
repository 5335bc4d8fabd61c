"""The protocol of architecture modules, and their shared code: configs, pools, initial weights.

A module `trainables.models.NAME` has

* `CONFIGS: dict[str, Config]`: the configuration of each size;
* `build(spec, *, dropout) -> Backbone`: a backbone with random weights from torch's current
  generator, which the caller seeds;
* `load(path, spec, *, fill=None) -> Checkpoint`: a published file as the float32 state dict of that
  backbone, and the file's heads. Missing weights are taken from the state dict `fill`; without
  `fill` they raise CheckpointError;
* `save_pretrained(state, spec, folder)`: write a folder for transformers' `from_pretrained`, or
  raise CheckpointError where transformers has no such class.

A ticket uses the names of its backbone's state dict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from trainables.errors import TrainableError
from trainables.models import Modality
from trainables.spec import ModelSpec


class Encoded(NamedTuple):
    """A backbone's output for B sequences of T text tokens and N regions or patches."""

    pooled: Tensor
    """(B, hidden_size)"""
    text: Tensor
    """(B, T, hidden_size)"""
    image: Tensor
    """(B, N, hidden_size). ViLT's begins with the image's own [CLS], and its patches are in reading
    order without gaps, so N - 1 is the largest number of patches in the batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockConfig:
    """Sizes of a BERT-like encoder and its text embeddings, named as in transformers."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    """In a model with several stacks, the layers that read only text."""
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    initializer_range: float = 0.02


Pools: TypeAlias = Mapping[str, tuple[str, ...]]
"""Pool -> prefixes of the names of its weights, in order of depth."""


class Backbone(nn.Module, ABC):
    """The interface of a model without its task head.

    `forward` takes a batch of B sequences with T text tokens: `input_ids` (B, T) int64, `text_mask`
    (B, T) bool, True at tokens; and the inputs of its modality:

    * regions: `region_features` (B, N, region_dim) and `region_boxes` (B, N, 7), optionally
      `region_mask` (B, N) bool, True at regions;
    * pixels: `pixel_values` (B, 3, height, width), optionally `patch_mask` (B, rows, columns) bool,
      True at patches of the image, which fill a rectangle from the top left.

    Optional: `text_kinds` (B, T) int64 token types (default 0); `image_kinds` (B,) int64, the row
    of each image in the type table (default 1); `masked_regions` (B, N) bool, True at regions whose
    features are zero and get the mask embedding; `text_delta` (B, T, hidden_size), added to the
    word embeddings before anything else; `image_delta`, added to `region_features` or
    `pixel_values` and of the same shape. LXMERT has no type row for images and no mask embedding,
    and ignores `image_kinds` and `masked_regions`.

    Floating-point inputs of any dtype are cast to the dtype of the weights.
    """

    architecture: str
    """The architecture's name in `MODELS`."""
    modality: Modality
    hidden_size: int
    vocab_size: int
    max_text: int
    """Maximum number of text tokens, [CLS] and [SEP] included."""
    region_dim: int
    """0 where the modality has no regions."""
    image_size: int
    """Shorter side of an image in pixels; 0 where the modality has no pixels."""
    patch_size: int
    """Side of a patch in pixels; 0 where the modality has none."""
    pools: Pools
    """By default, those of a model whose encoder is one stack of layers."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.vocab_size = config.vocab_size
        self.max_text = config.max_position_embeddings
        self.pools = {"encoder": ("encoder.",), "encoder+pooler": ("encoder.", "pooler.")}

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Encoded: ...

    def prunable(self, pool: str) -> list[str]:
        """Return the names of the pool's weights, all 2-D, in order of depth.

        Raises TrainableError for an unknown pool.
        """
        if pool not in self.pools:
            raise TrainableError(f"no pool of weights {pool!r}; pools: {', '.join(self.pools)}")
        matrices = [name for name, weight in self.named_parameters() if weight.dim() == 2]
        return [name for prefix in self.pools[pool] for name in matrices if name.startswith(prefix)]


TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 128,
    "max_position_embeddings": 32,
    # 1 / sqrt(hidden_size). With BERT's 0.02, meant for 768 and more, such a small network stays on
    # its first plateau for long: see the recipe in trainables/tasks.
    "initializer_range": 0.125,
}
"""The encoder of every model's size `tiny`, for tests and laptops."""

Config = TypeVar("Config", bound=BlockConfig)


def block_settings(config: BlockConfig) -> dict[str, Any]:
    """Return the values that transformers' configurations take under the same names."""
    return {field.name: getattr(config, field.name) for field in fields(BlockConfig)}


def resolve_config(configs: Mapping[str, Config], spec: ModelSpec) -> Config:
    """Return the configuration of `spec`'s size with its overrides.

    Raises TrainableError for an unknown size or setting and for a value that is not allowed.
    """
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


def check_image_type(spec: ModelSpec, setting: str, rows: int) -> None:
    """Raise TrainableError unless the type table, whose size is `setting`, has a row for images."""
    if rows < 2:
        raise TrainableError(
            f"model {spec.architecture}: {setting} = {rows}; images are of type 1, "
            "so give 2 or more"
        )


def embed_text(embeddings: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Embed the batch's text with transformers' text embeddings -> (B, T, hidden_size)."""
    ids = batch["input_ids"]
    words = embeddings.get_submodule("word_embeddings")(ids)
    if "text_delta" in batch:
        words = words + batch["text_delta"].to(words.dtype)
    kinds = batch.get("text_kinds")
    if kinds is None:
        kinds = torch.zeros_like(ids)
    out: Tensor = embeddings(input_ids=None, token_type_ids=kinds, inputs_embeds=words)
    return out


def image_type_embedding(types: nn.Embedding, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the type embedding of each image, (B, 1, hidden), or the default one, (hidden,)."""
    kinds = batch.get("image_kinds")
    return types.weight[1] if kinds is None else types(kinds)[:, None]


def image_input(batch: Mapping[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    """Return the batch's image input `name` in `dtype`, with `image_delta` added if present."""
    image = batch[name]
    if "image_delta" in batch:
        image = image + batch["image_delta"]
    return image.to(dtype)


def init_weights(model: nn.Module, std: float) -> None:
    """Initialise as BERT does, from torch's current generator: matrices normal(0, std), LayerNorms
    1 and 0."""
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
