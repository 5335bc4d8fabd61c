"""ViLT (Kim et al. 2021): one pre-LN transformer over word embeddings and image patches.

The parts and their names are transformers' `ViltModel`. Its own patch selection is replaced:
it draws the order of the patches with `torch.multinomial`, even in evaluation, which takes from the
global generator and moves the output by about 1e-7 from call to call. Here images have the size of
the model, so every patch is taken, in reading order; the pooled output is the same function.
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

from trainables.models import Modality
from trainables.models.base import TINY, Backbone, BlockConfig, draw_weights, encoder_pool, resolve
from trainables.models.checkpoint import fit, read
from trainables.spec import ModelSpec

TEXT_NORM_EPS, NORM_EPS = 1e-12, 1e-6
"""As the official code; transformers has 1e-12 everywhere, which moves the output by 3e-6."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViltConfig(BlockConfig):
    vocab_size: int = 30522
    max_position_embeddings: int = 40
    image_size: int = 384
    patch_size: int = 32


CONFIGS = {
    "tiny": ViltConfig(**TINY, image_size=32, patch_size=8),
    "base": ViltConfig(),
}


class Vilt(Backbone):
    modality: Modality = "pixels"
    region_dim = 0

    def __init__(self, config: ViltConfig, *, dropout: float) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.vocab_size = config.vocab_size
        self.max_text = config.max_position_embeddings
        self.image_size = config.image_size
        stock = ViltModel(_hub_config(config, dropout))
        self.embeddings = stock.embeddings
        self.encoder = stock.encoder
        self.layernorm = stock.layernorm
        self.pooler: Any = stock.pooler
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = NORM_EPS
        self.embeddings.text_embeddings.LayerNorm.eps = TEXT_NORM_EPS

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        kinds = self.embeddings.token_type_embeddings.weight
        text = self.embeddings.text_embeddings(batch["input_ids"]) + kinds[0]
        image = self._patches(batch["pixel_values"]) + kinds[1]
        mask = _attention_mask(batch["text_mask"], image)
        hidden = self.encoder(torch.cat([text, image], dim=1), attention_mask=mask)
        pooled: Tensor = self.pooler(self.layernorm(hidden.last_hidden_state))
        return pooled

    def prunable(self, pool: str) -> list[str]:
        return encoder_pool(self, pool)

    def _patches(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + patches, hidden): [CLS] of the image, then its patches."""
        parts = self.embeddings
        grid = parts.patch_embeddings(pixels)
        cls = parts.cls_token.expand(len(pixels), -1, -1)
        tokens = torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)
        out: Tensor = parts.dropout(tokens + parts.position_embeddings)
        return out


def build(spec: ModelSpec, *, dropout: float) -> Vilt:
    config = resolve(CONFIGS, spec)
    model = Vilt(config, dropout=dropout)
    draw_weights(model, config.initializer_range)
    for parameter in (model.embeddings.cls_token, model.embeddings.position_embeddings):
        nn.init.normal_(parameter, std=config.initializer_range)
    return model


def load(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """An official Lightning `.ckpt`, or a hub `model.safetensors` or `pytorch_model.bin`."""
    found: dict[str, Tensor] = {}
    for name, value in read(path).items():
        if not (name.startswith(_PRETRAINING_HEADS) or name.endswith("position_ids")):
            found |= _hub_names(name.removeprefix("vilt."), value)
    with torch.device("meta"):
        expected = Vilt(resolve(CONFIGS, spec), dropout=0.0).state_dict()
    return fit(found, expected, path=path, spec=spec)


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> None:
    """Write a folder that `transformers.ViltModel.from_pretrained` loads; its LayerNorms use the
    one eps 1e-12."""
    with torch.device("meta"):
        stock = ViltModel(_hub_config(resolve(CONFIGS, spec), dropout=0.0))
    stock.load_state_dict(dict(state), assign=True)
    stock.save_pretrained(folder)


_PRETRAINING_HEADS = ("mlm_score.", "itm_score.")
"""Masked language modelling and image-text matching: no fine-tuned task uses them. Heads of
fine-tuned tasks are not listed: such a file is not a start for another task."""

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


def _hub_config(config: ViltConfig, dropout: float) -> HubConfig:
    return HubConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,  # as the official code
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        initializer_range=config.initializer_range,
        image_size=config.image_size,
        patch_size=config.patch_size,
    )


def _attention_mask(text: Tensor, image: Tensor) -> Tensor:
    """(B, 1, 1, T+P) to add to attention scores: 0 at what may be attended to, else the lowest."""
    mask = torch.cat([text, text.new_ones(image.shape[:2])], dim=1)[:, None, None, :]
    lowest = torch.finfo(image.dtype).min
    return torch.zeros_like(mask, dtype=image.dtype).masked_fill(~mask, lowest)
