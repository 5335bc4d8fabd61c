"""The protocol of model modules, and code that they share.

The module that a `ModelEntry` names has

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
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.errors import TrainableError
from trainables.models.encoder import EncoderConfig
from trainables.models.entry import Modality, ModelConfig


class Encoded(NamedTuple):
    """A backbone's output for B sequences of T text tokens and N regions, patches or positions."""

    pooled: Tensor
    """(B, hidden_size)"""
    text: Tensor
    """(B, T, hidden_size). A model that reads no text returns (B, 0, hidden_size)."""
    image: Tensor
    """(B, N, hidden_size). ViLT's begins with the image's own [CLS], and its patches are in reading
    order without gaps, so N - 1 is the largest number of patches in the batch."""


class Backbone(nn.Module, ABC):
    """The interface of a model without its task head.

    `forward` takes a batch of B sequences: the text, if the model reads one, and the inputs of its
    modality:

    * text of T tokens: `input_ids` (B, T) int64, `text_mask` (B, T) bool, True at tokens;
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

    The state of a backbone is its parameters and its persistent buffers, such as the running
    statistics of BatchNorm: both are saved, rewound and hashed. A ticket masks parameters only.
    """

    architecture: str
    """The model's name in `MODELS`."""
    hidden_size: int
    """Width of `Encoded.pooled`."""
    vocab_size: int = 0
    """0 for a model that reads no text, like `max_text`."""
    max_text: int = 0
    """Maximum number of text tokens, [CLS] and [SEP] included."""
    region_dim: int = 0
    """0 where the modality has no regions."""
    image_size: int = 0
    """Shorter side of an image in pixels; 0 where the modality has no pixels."""
    patch_size: int = 0
    """Side of a patch in pixels; 0 where the model has none."""
    num_attention_heads: int = 0
    """Number of heads of an attention in the model, which a task head may have too; 0 where the
    model has none."""
    dropout_rate: float = 0.0
    """Dropout probability with which the model was built, which a task head may have too.
    `init_backbone` sets it."""

    def __init__(self, architecture: str, config: ModelConfig) -> None:
        """Take the pools from `config`, and the attributes above that it has too."""
        super().__init__()
        self.architecture = architecture
        self._pools = {pool: list(shapes) for pool, shapes in config.pools().items()}
        for name in _CONFIGURED:
            if hasattr(config, name):
                setattr(self, name, getattr(config, name))

    @property
    def modality(self) -> Modality:
        return "pixels" if self.image_size else "regions"

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Encoded: ...

    def prunable(self, pool: str) -> list[str]:
        """Return the names of the pool's weights, in order of depth.

        Raises TrainableError for an unknown pool.
        """
        if pool not in self._pools:
            raise TrainableError(f"no pool of weights {pool!r}; pools: {', '.join(self._pools)}")
        return list(self._pools[pool])


_CONFIGURED = (
    *("hidden_size", "vocab_size", "max_text", "region_dim"),
    *("image_size", "patch_size", "num_attention_heads"),
)


def block_settings(config: EncoderConfig) -> dict[str, Any]:
    """Return the values that transformers' configurations take under the same names."""
    return {field.name: getattr(config, field.name) for field in fields(EncoderConfig)}


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
