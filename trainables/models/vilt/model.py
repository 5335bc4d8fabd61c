"""ViLT (Kim et al. 2021): one pre-LN transformer over word embeddings and image patches.

The modules and their names are those of transformers' `ViltModel`. The forward pass is implemented
here, because transformers'

* draws the order of the patches with `torch.multinomial`, even in evaluation, which uses the global
  generator and changes the output by about 1e-7 from call to call. Here patches are in reading
  order; as each has its position embedding, the pooled output is the same function;
* computes attention in separate steps, where one kernel suffices;
* lacks one of the official code's dropouts, between the two matrices of the FFN.

Compared with transformers in float32 at size tiny, with images of several sizes, padded: outputs
agree within 2e-6, gradients within 2e-6 of the largest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViltConfig as HubConfig
from transformers import ViltModel
from transformers.models.vilt.modeling_vilt import ViltSelfAttention

from trainables.models.attention import attention_mask, fuse_attention
from trainables.models.base import (
    Backbone,
    Encoded,
    block_settings,
    embed_text,
    image_input,
    image_type_embedding,
    init_weights,
)
from trainables.models.checkpoint import Checkpoint, load_checkpoint
from trainables.models.vilt import MODEL, ViltConfig
from trainables.spec import ModelSpec

TEXT_NORM_EPS, NORM_EPS = 1e-12, 1e-6
"""As in the official code; transformers has 1e-12 everywhere, which changes the output by 3e-6."""


class Vilt(Backbone):
    def __init__(self, config: ViltConfig, *, dropout: float) -> None:
        super().__init__("vilt", config)
        stock = ViltModel(_hub_config(config, dropout))
        self.embeddings = stock.embeddings
        self.encoder = stock.encoder
        self.layernorm = stock.layernorm
        self.pooler: Any = stock.pooler
        fuse_attention(self.encoder, ViltSelfAttention)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = NORM_EPS
        self.embeddings.text_embeddings.LayerNorm.eps = TEXT_NORM_EPS

    def forward(self, batch: Mapping[str, Tensor]) -> Encoded:
        """For images of several sizes, `Encoded.image` has each image's patches in reading order,
        without gaps; what follows an image's last patch is undefined."""
        types = self.embeddings.token_type_embeddings
        text = embed_text(self.embeddings.text_embeddings, batch) + types.weight[0]
        patches, image_mask = self._embed_patches(batch)
        image = patches + image_type_embedding(types, batch)
        mask = attention_mask(batch["text_mask"], image_mask)
        hidden = torch.cat([text, image], dim=1)
        for layer in self.encoder.layer:
            hidden = pre_ln_layer(layer, hidden, mask)
        out = self.layernorm(hidden)
        text_length = text.shape[1]
        return Encoded(self.pooler(out), out[:, :text_length], out[:, text_length:])

    def _embed_patches(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embed each image's own [CLS] and its patches -> (B, 1 + P, hidden), and the mask of those
        that exist (B, 1 + P) bool; P is the largest number of patches of an image in the batch."""
        embeddings = self.embeddings
        pixels = image_input(batch, "pixel_values", embeddings.cls_token.dtype)
        # (B, rows, columns, hidden)
        grid = embeddings.patch_embeddings(pixels).permute(0, 2, 3, 1)
        mask = batch.get("patch_mask")
        if mask is None:
            mask = torch.ones(1, *grid.shape[1:3], dtype=torch.bool, device=grid.device)
        patches = (grid + self._positions(mask)).flatten(1, 2)
        patches, patch_mask = _compact(patches, mask.expand(len(grid), -1, -1).flatten(1))
        cls = embeddings.cls_token + embeddings.position_embeddings[:, :1]
        cls = cls.expand(len(grid), -1, -1)
        tokens: Tensor = embeddings.dropout(torch.cat([cls, patches], dim=1))
        return tokens, torch.cat([patch_mask.new_ones(len(patch_mask), 1), patch_mask], dim=1)

    def _positions(self, mask: Tensor) -> Tensor:
        """Interpolate the model's grid of position embeddings bilinearly, with aligned corners, to
        each image's patches, True in `mask` (B, rows, columns) -> (B, rows, columns, hidden).

        Two matrix products replace `interpolate` for all images at once, and sum their gradients in
        a fixed order on a GPU too.
        """
        side = self.image_size // self.patch_size
        table = self.embeddings.position_embeddings[0, 1:].view(side, side, -1)
        vertical = _interpolation(side, mask.shape[1], mask[:, :, 0].sum(dim=1)).to(table.dtype)
        horizontal = _interpolation(side, mask.shape[2], mask[:, 0].sum(dim=1)).to(table.dtype)
        rows = (vertical @ table.flatten(1)).view(*vertical.shape[:2], side, -1)
        out: Tensor = horizontal[:, None] @ rows
        return out


def build(spec: ModelSpec, *, dropout: float) -> Vilt:
    config = MODEL.config(spec)
    model = Vilt(config, dropout=dropout)
    init_weights(model, config.initializer_range)
    for parameter in (model.embeddings.cls_token, model.embeddings.position_embeddings):
        nn.init.normal_(parameter, std=config.initializer_range)
    return model


def load(path: Path, spec: ModelSpec, *, fill: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Load an official Lightning `.ckpt`, or a hub `model.safetensors` or `pytorch_model.bin`."""
    return load_checkpoint(
        path,
        spec,
        build,
        prefixes=("vilt.",),
        heads=_PRETRAINING_HEADS,
        convert=_hub_names,
        fill=fill,
    )


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> None:
    """Write a folder that `transformers.ViltModel.from_pretrained` loads. All LayerNorms have eps
    1e-12 there."""
    with torch.device("meta"):
        stock = ViltModel(_hub_config(MODEL.config(spec), dropout=0.0))
    stock.load_state_dict(dict(state), assign=True)
    stock.save_pretrained(folder)


_PRETRAINING_HEADS = ("mlm_score.", "itm_score.")
"""Prefixes of the heads of masked language modelling and image-text matching. Heads of fine-tuned
tasks are not listed, because a fine-tuned file must not be the start of another task."""

_OFFICIAL_TO_HUB = (
    (r"^text_embeddings\.", "embeddings.text_embeddings."),
    (r"^token_type_embeddings\.", "embeddings.token_type_embeddings."),
    (r"^transformer\.cls_token$", "embeddings.cls_token"),
    (r"^transformer\.pos_embed$", "embeddings.position_embeddings"),
    (r"^transformer\.patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^transformer\.norm\.", "layernorm."),
    (r"^transformer\.blocks\.", "encoder.layer."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
)


def _hub_names(name: str, value: Tensor) -> dict[str, Tensor]:
    """Rename a weight as in transformers; the official fused query-key-value becomes three."""
    for pattern, replacement in _OFFICIAL_TO_HUB:
        name = re.sub(pattern, replacement, name)
    head, fused, tail = name.partition(".attn.qkv.")
    if not fused:
        return {name: value}
    names = [f"{head}.attention.attention.{part}.{tail}" for part in ("query", "key", "value")]
    return dict(zip(names, value.chunk(3), strict=True))


def _hub_config(config: ViltConfig, dropout: float) -> HubConfig:
    return HubConfig(
        **block_settings(config),
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,  # as the official code
        image_size=config.image_size,
        patch_size=config.patch_size,
        modality_type_vocab_size=config.modality_types,
    )


def pre_ln_layer(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """Run one block: (B, N, H) -> (B, N, H)."""
    normalised = layer.layernorm_before(hidden)
    mixed = layer.attention.attention(normalised, normalised, mask)
    hidden = hidden + layer.attention.output(mixed, hidden)
    # One dropout module serves both places of the FFN: it has no state, and the rate is the same.
    wide = layer.output.dropout(layer.intermediate(layer.layernorm_after(hidden)))
    out: Tensor = layer.output(wide, hidden)
    return out


def _interpolation(side: int, length: int, lengths: Tensor) -> Tensor:
    """Return interpolation weights (B, length, side): row i of image b has the (at most two)
    weights of patch i over the `side` entries of the model's grid, which the image's `lengths[b]`
    patches span."""
    step = (side - 1) / (lengths - 1).clamp(min=1)
    position = torch.arange(length, device=lengths.device) * step[:, None]
    distance = position[..., None] - torch.arange(side, device=lengths.device)
    return (1 - distance.abs()).clamp(min=0)


def _compact(patches: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the patches (B, P, hidden) that are True in `mask` (B, P) to the front, keeping their
    order, and truncate both to the largest number of patches that an image has."""
    longest = int(mask.sum(dim=1).max())
    if longest == mask.shape[1]:
        return patches, mask
    order = torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices[:, :longest]
    # Indexing whole rows: the backward pass of `gather` is many times slower, because it must sum
    # in a fixed order.
    rows = order + mask.shape[1] * torch.arange(len(mask), device=mask.device)[:, None]
    return patches.flatten(0, 1)[rows], mask.gather(1, order)
