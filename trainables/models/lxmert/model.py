"""LXMERT (Tan and Bansal 2019): a stack over text, one over regions, and cross-modality layers.

The modules and their names are those of transformers' `LxmertModel`. Its attention, computed there
in separate steps, runs as one kernel here. Compared with transformers in float32 at size tiny, all
inputs padded: outputs agree within 3e-6, gradients within 2e-6 of the largest.

**Weights that are never trained.** A loss on the pooled output, as in VQA, GQA and NLVR2, sends no
gradient to the region side of the last cross layer: `visn_self_att`, `visn_inter` and `visn_output`
there compute regions that are not used (6 matrices, 7,077,888 weights at base, 3.9 % of the pool
`encoder`). Magnitude pruning ranks them by their initial weights. At ZeRO 0 these are unchanged,
because the optimizer skips weights without a gradient, as the official one does. ZeRO 1 and 2 give
such weights a gradient of zero, so weight decay shrinks them by the product of 1 - lr * decay over
the steps. The pool `encoder-reached` leaves them out.

The first row of each embedding table is not trained either: the official code treats it as padding,
although it is also the position of [CLS] and the type of all text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LxmertConfig as HubConfig
from transformers import LxmertModel
from transformers.models.lxmert.modeling_lxmert import LxmertAttention

from trainables.models.attention import attention_mask, fuse_attention, post_ln_layer
from trainables.models.base import (
    Backbone,
    Encoded,
    block_settings,
    embed_text,
    image_input,
    init_weights,
)
from trainables.models.checkpoint import Checkpoint, load_checkpoint
from trainables.models.lxmert import MODEL, LxmertConfig
from trainables.spec import ModelSpec

_BOX_DIM = 4
"""x1, y1, x2, y2, each over the image's width or height: the first 4 of the 7 box numbers."""


class Lxmert(Backbone):
    """Ignores `image_kinds` and `masked_regions`: it has no embedding for either."""

    def __init__(self, config: LxmertConfig, *, dropout: float) -> None:
        super().__init__("lxmert", config)
        stock: Any = LxmertModel(_hub_config(config, dropout))
        self.embeddings = stock.embeddings
        self.encoder = stock.encoder
        self.pooler = stock.pooler
        fuse_attention(self.encoder, LxmertAttention)

    def forward(self, batch: Mapping[str, Tensor]) -> Encoded:
        dtype = self.pooler.dense.weight.dtype
        words = embed_text(self.embeddings, batch)
        regions = self.encoder.visn_fc(
            image_input(batch, "region_features", dtype),
            batch["region_boxes"][..., :_BOX_DIM].to(dtype),
        )
        text_mask = attention_mask(batch["text_mask"])
        region_mask = attention_mask(batch["region_mask"]) if "region_mask" in batch else None
        for layer in self.encoder.layer:
            words = post_ln_layer(layer, words, text_mask)
        for layer in self.encoder.r_layers:
            regions = post_ln_layer(layer, regions, region_mask)
        for layer in self.encoder.x_layers:
            words, regions = _cross_layer(layer, words, regions, text_mask, region_mask)
        return Encoded(self.pooler(words), words, regions)


def build(spec: ModelSpec, *, dropout: float) -> Lxmert:
    config = MODEL.config(spec)
    model = Lxmert(config, dropout=dropout)
    init_weights(model, config.initializer_range)
    return model


def load(path: Path, spec: ModelSpec, *, fill: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Load an official `model_LXRT.pth` (`bert.` prefix), or a hub `model.safetensors` or
    `pytorch_model.bin` (`lxmert.` prefix)."""
    return load_checkpoint(
        path, spec, build, prefixes=("bert.", "lxmert."), heads=_PRETRAINING_HEADS, fill=fill
    )


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> None:
    """Write a folder that `transformers.LxmertModel.from_pretrained` loads."""
    with torch.device("meta"):
        stock = LxmertModel(_hub_config(MODEL.config(spec), dropout=0.0))
    stock.load_state_dict(dict(state), assign=True)
    stock.save_pretrained(folder)


_PRETRAINING_HEADS = ("cls.", "obj_predict_head.", "answer_head.")
"""Prefixes of the heads of masked language modelling and image-text matching; of objects,
attributes and features; of question answering over 9,500 answers. Heads of fine-tuned tasks are not
listed, because a fine-tuned file must not be the start of another task."""


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
        visual_pos_dim=_BOX_DIM,
    )


def _cross_layer(
    layer: Any, words: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run one cross layer: (B, T, H), (B, N, H) -> the same shapes. Both directions of the cross
    attention use the same weights, and both read the layer's inputs."""
    cross = layer.visual_attention
    text = cross.output(cross.att(words, regions, region_mask), words)
    image = cross.output(cross.att(regions, words, text_mask), regions)
    text = layer.lang_self_att.output(layer.lang_self_att.self(text, text, text_mask), text)
    image = layer.visn_self_att.output(layer.visn_self_att.self(image, image, region_mask), image)
    words = layer.lang_output(layer.lang_inter(text), text)
    regions = layer.visn_output(layer.visn_inter(image), image)
    return words, regions
