"""LXMERT (Tan and Bansal 2019): a stack over words, one over regions, and layers between the two.

The parts and their names are transformers' `LxmertModel`; its attention, which it computes in
separate steps, runs as one kernel. Against transformers in float32 at size tiny, everything padded:
outputs within 3e-6, gradients within 2e-6 of the largest.

**What is never trained.** A loss that reads the pooled output, as those of VQA, GQA and NLVR2 do,
sends no gradient to the region side of the last cross layer: `visn_self_att`, `visn_inter` and
`visn_output` there make regions that nobody reads (6 matrices, 7,077,888 weights at base, 3.9 % of
the pool `encoder`). A magnitude cut ranks them by their start weights: exactly those at ZeRO 0,
where the optimizer passes over weights without a gradient, as the official one does. ZeRO 1 and 2
give such weights a gradient of zero, so weight decay shrinks them by the product of 1 - lr * decay
over the steps. The pool `encoder-reached` leaves them out.

The first row of each embedding table is not trained either: the official code calls it padding,
though it is also the position of [CLS] and the type of all text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LxmertConfig as HubConfig
from transformers import LxmertModel
from transformers.models.lxmert.modeling_lxmert import LxmertAttention

from trainables.models import Modality
from trainables.models.attention import attendable, fuse_attention, post_ln_layer
from trainables.models.base import (
    TINY,
    Backbone,
    BlockConfig,
    Encoded,
    Pools,
    block_settings,
    describe,
    draw_weights,
    embedded_words,
    pool_weights,
    resolve,
    shown,
)
from trainables.models.checkpoint import Checkpoint, load_checkpoint
from trainables.spec import ModelSpec

BOX = 4
"""x1, y1, x2, y2, each divided by the side of the image it lies along: the first of our seven."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LxmertConfig(BlockConfig):
    num_hidden_layers: int = 9
    r_layers: int = 5
    """Layers that read only regions."""
    x_layers: int = 5
    """Layers that read both."""
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    region_dim: int = 2048


CONFIGS = {
    "tiny": LxmertConfig(**TINY, r_layers=1, x_layers=2, region_dim=192),
    "base": LxmertConfig(),
}


class Lxmert(Backbone):
    """Reads no `image_kinds` and no `masked_regions`: it has no embedding for either."""

    architecture = "lxmert"
    modality: Modality = "regions"
    image_size = patch_size = 0

    def __init__(self, config: LxmertConfig, *, dropout: float) -> None:
        super().__init__()
        describe(self, config)
        self.region_dim = config.region_dim
        stock: Any = LxmertModel(_hub_config(config, dropout))
        self.embeddings = stock.embeddings
        self.encoder = stock.encoder
        self.pooler = stock.pooler
        fuse_attention(self.encoder, LxmertAttention)
        self._pools = _pools(config.x_layers)

    def forward(self, batch: Mapping[str, Tensor]) -> Encoded:
        dtype = self.pooler.dense.weight.dtype
        words = embedded_words(self.embeddings, batch)
        regions = self.encoder.visn_fc(
            shown(batch, "region_features", dtype), batch["region_boxes"][..., :BOX].to(dtype)
        )
        said = attendable(batch["text_mask"])
        seen = attendable(batch["region_mask"]) if "region_mask" in batch else None
        for layer in self.encoder.layer:
            words = post_ln_layer(layer, words, said)
        for layer in self.encoder.r_layers:
            regions = post_ln_layer(layer, regions, seen)
        for layer in self.encoder.x_layers:
            words, regions = _cross_layer(layer, words, regions, said, seen)
        return Encoded(self.pooler(words), words, regions)

    def prunable(self, pool: str) -> list[str]:
        return pool_weights(self, self._pools, pool)


def build(spec: ModelSpec, *, dropout: float) -> Lxmert:
    config = resolve(CONFIGS, spec)
    model = Lxmert(config, dropout=dropout)
    draw_weights(model, config.initializer_range)
    return model


def load(path: Path, spec: ModelSpec, *, fill: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """An official `model_LXRT.pth` (`bert.` prefix), or a hub `model.safetensors` or
    `pytorch_model.bin` (`lxmert.`)."""
    with torch.device("meta"):
        expected = Lxmert(resolve(CONFIGS, spec), dropout=0.0).state_dict()
    return load_checkpoint(
        path, spec, expected, prefixes=("bert.", "lxmert."), heads=_PRETRAINING_HEADS, fill=fill
    )


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> None:
    """Write a folder that `transformers.LxmertModel.from_pretrained` loads."""
    with torch.device("meta"):
        stock = LxmertModel(_hub_config(resolve(CONFIGS, spec), dropout=0.0))
    stock.load_state_dict(dict(state), assign=True)
    stock.save_pretrained(folder)


_PRETRAINING_HEADS = ("cls.", "obj_predict_head.", "answer_head.")
"""Masked language modelling and image-text matching; objects, attributes and features; question
answering over 9,500 answers. Heads of fine-tuned tasks are not listed: such a file is not a start
for another task."""


def _pools(x_layers: int) -> Pools:
    single = ("encoder.layer.", "encoder.r_layers.")
    encoder = (*single, "encoder.x_layers.")
    last = f"encoder.x_layers.{x_layers - 1}."
    before = tuple(f"encoder.x_layers.{n}." for n in range(x_layers - 1))
    return {
        "encoder": encoder,
        "encoder+pooler": (*encoder, "pooler."),
        "encoder-reached": (*single, *before, f"{last}visual_attention.", f"{last}lang_"),
    }


def _hub_config(config: LxmertConfig, dropout: float) -> HubConfig:
    settings = block_settings(config)
    return HubConfig(
        l_layers=settings.pop("num_hidden_layers"),
        **settings,
        r_layers=config.r_layers,
        x_layers=config.x_layers,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        visual_feat_dim=config.region_dim,
        visual_pos_dim=BOX,
    )


def _cross_layer(
    layer: Any, words: Tensor, regions: Tensor, said: Tensor, seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(B, T, H) and (B, N, H) -> the same. Both directions of the attention between the two use the
    same weights and read what came in."""
    between = layer.visual_attention
    told = between.output(between.att(words, regions, seen), words)
    noted = between.output(between.att(regions, words, said), regions)
    told = layer.lang_self_att.output(layer.lang_self_att.self(told, told, said), told)
    noted = layer.visn_self_att.output(layer.visn_self_att.self(noted, noted, seen), noted)
    words = layer.lang_output(layer.lang_inter(told), told)
    regions = layer.visn_output(layer.visn_inter(noted), noted)
    return words, regions
