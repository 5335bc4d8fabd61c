"""UNITER (Chen et al. 2020): one BERT over word and region embeddings.

It is built from transformers' BERT blocks. Parameter names are those of the official checkpoints
without their `uniter.` prefix. Text and regions are concatenated, and padding is masked. The
official code first gathers each example's tokens at the front of the sequence. As regions have no
position embeddings, this only reorders the tokens, and the pooled output, read at [CLS], is the
same function. Compared with the equations, implemented without padding, in float32 at size tiny:
outputs agree within 2e-6, gradients within 1e-6 of the largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Never

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import (
    BertEmbeddings,
    BertEncoder,
    BertPooler,
    BertSelfAttention,
)

from trainables.errors import CheckpointError
from trainables.models.attention import attention_mask, fuse_attention, post_ln_layer
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
from trainables.models.uniter import MODEL, UniterConfig
from trainables.spec import ModelSpec

_BOX_DIM = 7
"""x1, y1, x2, y2, w, h, each over the image's width or height, and w * h."""
LAYER_NORM_EPS = 1e-12


class RegionEmbeddings(nn.Module):
    """LN( LN(W f) + LN(V b) + type ): UNITER section 3.1, with the official parameter names."""

    def __init__(self, config: UniterConfig, *, dropout: float) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.img_linear = nn.Linear(config.region_dim, hidden)
        self.img_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.pos_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.pos_linear = nn.Linear(_BOX_DIM, hidden)
        self.mask_embedding = nn.Embedding(2, config.region_dim, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, features: Tensor, boxes: Tensor, type_embedding: Tensor, masked: Tensor | None = None
    ) -> Tensor:
        """Embed (B, N, region_dim) features and (B, N, 7) boxes -> (B, N, hidden).

        For masked region modelling, `masked` (B, N) bool adds the mask embedding to the features of
        masked regions, which the caller has set to zero. The mask embedding is row 1 of the table;
        row 0 is for the other regions, and the official code sets it to zero before each use.
        """
        if masked is not None:
            features = features + masked[..., None] * self.mask_embedding.weight[1]
        appearance = self.img_layer_norm(self.img_linear(features))
        position = self.pos_layer_norm(self.pos_linear(boxes))
        out: Tensor = self.dropout(self.LayerNorm(appearance + position + type_embedding))
        return out


class Uniter(Backbone):
    def __init__(self, config: UniterConfig, *, dropout: float) -> None:
        super().__init__("uniter", config)
        bert = BertConfig(
            **block_settings(config),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            layer_norm_eps=LAYER_NORM_EPS,
        )
        self.embeddings = BertEmbeddings(bert)  # type: ignore[no-untyped-call]
        self.img_embeddings = RegionEmbeddings(config, dropout=dropout)
        self.encoder = BertEncoder(bert)  # type: ignore[no-untyped-call]
        self.pooler = BertPooler(bert)  # type: ignore[no-untyped-call]
        fuse_attention(self.encoder, BertSelfAttention)

    def forward(self, batch: Mapping[str, Tensor]) -> Encoded:
        dtype = self.pooler.dense.weight.dtype
        text = embed_text(self.embeddings, batch)
        regions = self.img_embeddings(
            image_input(batch, "region_features", dtype),
            batch["region_boxes"].to(dtype),
            image_type_embedding(self.embeddings.token_type_embeddings, batch),
            batch.get("masked_regions"),
        )
        region_mask = batch.get("region_mask")
        if region_mask is None:
            region_mask = regions.new_ones(regions.shape[:2], dtype=torch.bool)
        mask = attention_mask(batch["text_mask"], region_mask)
        hidden = torch.cat([text, regions], dim=1)
        for layer in self.encoder.layer:
            hidden = post_ln_layer(layer, hidden, mask)
        text_length = text.shape[1]
        return Encoded(self.pooler(hidden), hidden[:, :text_length], hidden[:, text_length:])


def build(spec: ModelSpec, *, dropout: float) -> Uniter:
    config = MODEL.config(spec)
    model = Uniter(config, dropout=dropout)
    init_weights(model, config.initializer_range)
    return model


def load(path: Path, spec: ModelSpec, *, fill: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Load an official `.pt` of UNITER (`uniter.` prefix) or VILLA (`bert.` prefix).

    With `fill`, BERT's own files load too, such as `uniter-base-init.pt` or the hub's
    bert-base-cased: they lack the image embeddings.
    """
    return load_checkpoint(
        path, spec, build, prefixes=("uniter.", "bert."), heads=_PRETRAINING_HEADS, fill=fill
    )


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> Never:
    raise CheckpointError(
        f"model {spec.architecture}: transformers has no class to load it with from_pretrained; "
        "export the masks as safetensors or in torch.nn.utils.prune form"
    )


_PRETRAINING_HEADS = ("cls.", "feat_regress.", "region_classifier.", "itm_output.")
"""Prefixes of the heads of masked language modelling (and BERT's next sentence prediction), feature
regression, region classification and image-text matching. Heads of fine-tuned tasks are not listed,
because a fine-tuned file must not be the start of another task."""
