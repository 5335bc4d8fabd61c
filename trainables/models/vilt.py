"""ViLT (Kim et al. 2021): one pre-LN transformer over word embeddings and image patches.

The parts and their names are transformers' `ViltModel`; what runs them is here, because its own

* draws the order of the patches with `torch.multinomial`, even in evaluation, which takes from the
  global generator and moves the output by about 1e-7 from call to call. Here patches come in
  reading order; as they carry their positions, the pooled output is the same function;
* computes attention in separate steps, where one kernel does;
* lacks one of the official code's dropouts, between the two matrices of the FFN.

Against transformers in float32 at size tiny, with images of several sizes, padded: outputs within
2e-6, gradients within 2e-6 of the largest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViltConfig as HubConfig
from transformers import ViltModel
from transformers.models.vilt.modeling_vilt import ViltSelfAttention

from trainables.models import Modality
from trainables.models.attention import attendable, fuse_attention
from trainables.models.base import (
    ENCODER_POOLS,
    TINY,
    Backbone,
    BlockConfig,
    Encoded,
    block_settings,
    check_image_type,
    describe,
    draw_weights,
    embedded_words,
    image_kind,
    pool_weights,
    resolve,
    shown,
)
from trainables.models.checkpoint import Checkpoint, load_checkpoint
from trainables.spec import ModelSpec

TEXT_NORM_EPS, NORM_EPS = 1e-12, 1e-6
"""As the official code; transformers has 1e-12 everywhere, which moves the output by 3e-6."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViltConfig(BlockConfig):
    vocab_size: int = 30522
    max_position_embeddings: int = 40
    image_size: int = 384
    patch_size: int = 32
    modality_types: int = 2
    """Rows that tell text (0) from image (1); a third is for the second image of a pair."""


CONFIGS = {
    "tiny": ViltConfig(**TINY, image_size=32, patch_size=8),
    "base": ViltConfig(),
}


class Vilt(Backbone):
    architecture = "vilt"
    modality: Modality = "pixels"
    region_dim = 0

    def __init__(self, config: ViltConfig, *, dropout: float) -> None:
        super().__init__()
        describe(self, config)
        self.image_size = config.image_size
        self.patch_size = config.patch_size
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
        """Of images in several sizes, `Encoded.image` has the patches of each in reading order,
        without gaps, and what comes after an image's last patch means nothing."""
        types = self.embeddings.token_type_embeddings
        text = embedded_words(self.embeddings.text_embeddings, batch) + types.weight[0]
        patches, there = self._patches(batch)
        image = patches + image_kind(types, batch)
        mask = attendable(batch["text_mask"], there)
        hidden = torch.cat([text, image], dim=1)
        for layer in self.encoder.layer:
            hidden = pre_ln_layer(layer, hidden, mask)
        out = self.layernorm(hidden)
        words = text.shape[1]
        return Encoded(self.pooler(out), out[:, :words], out[:, words:])

    def prunable(self, pool: str) -> list[str]:
        return pool_weights(self, ENCODER_POOLS, pool)

    def _patches(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The image's own [CLS] and its patches (B, 1 + P, hidden), and which are there (B, 1 + P)
        bool; P is the largest number of patches that an image of the batch has."""
        parts = self.embeddings
        pixels = shown(batch, "pixel_values", parts.cls_token.dtype)
        grid = parts.patch_embeddings(pixels).permute(0, 2, 3, 1)  # (B, rows, columns, hidden)
        mask = batch.get("patch_mask")
        if mask is None:
            mask = torch.ones(1, *grid.shape[1:3], dtype=torch.bool, device=grid.device)
        patches = (grid + self._positions(mask)).flatten(1, 2)
        patches, there = _gathered(patches, mask.expand(len(grid), -1, -1).flatten(1))
        cls = (parts.cls_token + parts.position_embeddings[:, :1]).expand(len(grid), -1, -1)
        tokens: Tensor = parts.dropout(torch.cat([cls, patches], dim=1))
        return tokens, torch.cat([there.new_ones(len(there), 1), there], dim=1)

    def _positions(self, mask: Tensor) -> Tensor:
        """Position embeddings (B, rows, columns, hidden) of images whose patches are True in
        `mask` (B, rows, columns): the model's grid, stretched to each image's bilinearly, corner to
        corner.

        Two products of matrices do what `interpolate` would, for all images at once, and their
        gradients add up in one order on a GPU too.
        """
        side = self.image_size // self.patch_size
        table = self.embeddings.position_embeddings[0, 1:].view(side, side, -1)
        down = _stretched(side, mask.shape[1], mask[:, :, 0].sum(dim=1)).to(table.dtype)
        right = _stretched(side, mask.shape[2], mask[:, 0].sum(dim=1)).to(table.dtype)
        tall = (down @ table.flatten(1)).view(*down.shape[:2], side, -1)
        out: Tensor = right[:, None] @ tall
        return out


def build(spec: ModelSpec, *, dropout: float) -> Vilt:
    config = _config(spec)
    model = Vilt(config, dropout=dropout)
    draw_weights(model, config.initializer_range)
    for parameter in (model.embeddings.cls_token, model.embeddings.position_embeddings):
        nn.init.normal_(parameter, std=config.initializer_range)
    return model


def load(path: Path, spec: ModelSpec, *, fill: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """An official Lightning `.ckpt`, or a hub `model.safetensors` or `pytorch_model.bin`."""
    with torch.device("meta"):
        expected = Vilt(_config(spec), dropout=0.0).state_dict()
    return load_checkpoint(
        path,
        spec,
        expected,
        prefixes=("vilt.",),
        heads=_PRETRAINING_HEADS,
        convert=_hub_names,
        fill=fill,
    )


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> None:
    """Write a folder that `transformers.ViltModel.from_pretrained` loads; its LayerNorms use the
    one eps 1e-12."""
    with torch.device("meta"):
        stock = ViltModel(_hub_config(_config(spec), dropout=0.0))
    stock.load_state_dict(dict(state), assign=True)
    stock.save_pretrained(folder)


_PRETRAINING_HEADS = ("mlm_score.", "itm_score.")
"""Masked language modelling and image-text matching. Heads of fine-tuned tasks are not listed: such
a file is not a start for another task."""

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
    """The entry by transformers' name; the official fused query-key-value becomes three."""
    for pattern, replacement in _OFFICIAL_TO_HUB:
        name = re.sub(pattern, replacement, name)
    head, fused, tail = name.partition(".attn.qkv.")
    if not fused:
        return {name: value}
    names = [f"{head}.attention.attention.{part}.{tail}" for part in ("query", "key", "value")]
    return dict(zip(names, value.chunk(3), strict=True))


def _config(spec: ModelSpec) -> ViltConfig:
    config = resolve(CONFIGS, spec)
    check_image_type(spec, "modality_types", config.modality_types)
    return config


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
    """One block: (B, N, H) -> (B, N, H)."""
    normal = layer.layernorm_before(hidden)
    mixed = layer.attention.attention(normal, normal, mask)
    hidden = hidden + layer.attention.output(mixed, hidden)
    # One dropout module for the FFN's both places: it keeps no state, and both have the same rate.
    wide = layer.output.dropout(layer.intermediate(layer.layernorm_after(hidden)))
    out: Tensor = layer.output(wide, hidden)
    return out


def _stretched(side: int, length: int, lengths: Tensor) -> Tensor:
    """(B, length, side): row i of image b holds the two weights with which its patch i mixes the
    `side` entries of the model's grid, when its `lengths[b]` patches span them all."""
    step = (side - 1) / (lengths - 1).clamp(min=1)
    place = torch.arange(length, device=lengths.device) * step[:, None]
    distance = place[..., None] - torch.arange(side, device=lengths.device)
    return (1 - distance.abs()).clamp(min=0)


def _gathered(patches: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Patches (B, P, hidden) that are True in `there` (B, P) before the others, in the same order,
    cut after the last that an image needs; and `there` for them."""
    longest = int(there.sum(dim=1).max())
    if longest == there.shape[1]:
        return patches, there
    order = torch.sort((~there).to(torch.uint8), dim=1, stable=True).indices[:, :longest]
    # By rows: taking entries with `gather` is many times dearer backwards, where it must add them
    # up in one order.
    rows = order + there.shape[1] * torch.arange(len(there), device=there.device)[:, None]
    return patches.flatten(0, 1)[rows], there.gather(1, order)
