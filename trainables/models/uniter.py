"""UNITER (Chen et al. 2020): one BERT over word and region embeddings.

Built from transformers' BERT blocks; parameter names are those of the official checkpoints after
their `uniter.` prefix. Text and regions are concatenated and padding is masked. The official code
first gathers each example's tokens to the front of the sequence: without positions on regions that
only reorders the tokens, so the pooled output, read at [CLS], is the same function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder, BertPooler

from trainables.errors import CheckpointError, TrainableError
from trainables.models import Modality
from trainables.models.base import TINY, Backbone, BlockConfig, draw_weights, encoder_pool, resolve
from trainables.models.checkpoint import fit, read
from trainables.spec import ModelSpec

BOX = 7
"""x1, y1, x2, y2, w, h, all divided by the side of the image they lie along, and w * h."""
LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class UniterConfig(BlockConfig):
    vocab_size: int = 28996
    max_position_embeddings: int = 512
    region_dim: int = 2048


CONFIGS = {
    "tiny": UniterConfig(**TINY, region_dim=192),
    "base": UniterConfig(),
    "large": UniterConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}


class RegionEmbeddings(nn.Module):
    """LN( LN(W f) + LN(V b) + type[1] ): UNITER section 3.1, with the official parameter names."""

    def __init__(self, config: UniterConfig, *, dropout: float) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.img_linear = nn.Linear(config.region_dim, hidden)
        self.img_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.pos_layer_norm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.pos_linear = nn.Linear(BOX, hidden)
        self.mask_embedding = nn.Embedding(2, config.region_dim, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(hidden, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, features: Tensor, boxes: Tensor, kind: Tensor, masked: Tensor | None = None
    ) -> Tensor:
        """(B, N, region_dim), (B, N, 7), the type row (hidden,) -> (B, N, hidden).

        `masked` (B, N) bool adds the mask embedding to the features of masked regions, which the
        caller has set to zero (masked region modelling).
        """
        if masked is not None:
            features = features + self.mask_embedding(masked.long())
        appearance = self.img_layer_norm(self.img_linear(features))
        place = self.pos_layer_norm(self.pos_linear(boxes))
        out: Tensor = self.dropout(self.LayerNorm(appearance + place + kind))
        return out


class Uniter(Backbone):
    modality: Modality = "regions"
    image_size = 0

    def __init__(self, config: UniterConfig, *, dropout: float) -> None:
        super().__init__()
        self.hidden_size = config.hidden_size
        self.vocab_size = config.vocab_size
        self.max_text = config.max_position_embeddings
        self.region_dim = config.region_dim
        bert = _bert_config(config, dropout)
        self.embeddings = BertEmbeddings(bert)  # type: ignore[no-untyped-call]
        self.img_embeddings = RegionEmbeddings(config, dropout=dropout)
        self.encoder = BertEncoder(bert)  # type: ignore[no-untyped-call]
        self.pooler = BertPooler(bert)  # type: ignore[no-untyped-call]

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        dtype = self.pooler.dense.weight.dtype
        text = self.embeddings(batch["input_ids"])
        regions = self.img_embeddings(
            batch["region_features"].to(dtype),
            batch["region_boxes"].to(dtype),
            self.embeddings.token_type_embeddings.weight[1],
            batch.get("masked_regions"),
        )
        hidden = self.encoder(
            torch.cat([text, regions], dim=1), attention_mask=_attention_mask(batch)
        ).last_hidden_state
        pooled: Tensor = self.pooler(hidden)
        return pooled

    def prunable(self, pool: str) -> list[str]:
        return encoder_pool(self, pool)


def build(spec: ModelSpec, *, dropout: float) -> Uniter:
    config = _config(spec)
    model = Uniter(config, dropout=dropout)
    draw_weights(model, config.initializer_range)
    return model


def load(path: Path, spec: ModelSpec) -> dict[str, Tensor]:
    """An official `.pt`: UNITER's (`uniter.` prefix) or VILLA's (`bert.`)."""
    found = {}
    for name, value in read(path).items():
        if name.startswith(_PRETRAINING_HEADS) or name.endswith("position_ids"):
            continue
        found[_official_name(name)] = value
    with torch.device("meta"):
        expected = Uniter(_config(spec), dropout=0.0).state_dict()
    return fit(found, expected, path=path, spec=spec)


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> Never:
    raise CheckpointError(
        f"model {spec.architecture}: transformers has no class to load it with from_pretrained; "
        "export the masks as safetensors or in torch.nn.utils.prune form"
    )


_PRETRAINING_HEADS = ("cls.", "feat_regress.", "region_classifier.", "itm_output.")
"""Masked language and region modelling and image-text matching: no fine-tuned task uses them.
Heads of fine-tuned tasks are not listed: such a file is not a start for another task."""


def _config(spec: ModelSpec) -> UniterConfig:
    config = resolve(CONFIGS, spec)
    if config.type_vocab_size < 2:
        raise TrainableError(
            f"model {spec.architecture}: type_vocab_size = {config.type_vocab_size}; regions are "
            "of type 1, so give 2 or more"
        )
    return config


def _official_name(name: str) -> str:
    for prefix in ("uniter.", "bert."):
        name = name.removeprefix(prefix)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def _bert_config(config: UniterConfig, dropout: float) -> BertConfig:
    bert = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        layer_norm_eps=LAYER_NORM_EPS,
    )
    # Outside a PreTrainedModel nobody fills this in, and None means eager attention.
    bert._attn_implementation = "sdpa"
    return bert


def _attention_mask(batch: Mapping[str, Tensor]) -> Tensor:
    """(B, 1, 1, T+N) bool, True at what may be attended to, as SDPA reads a boolean mask."""
    regions = batch.get("region_mask")
    if regions is None:
        features = batch["region_features"]
        regions = features.new_ones(features.shape[:2], dtype=torch.bool)
    return torch.cat([batch["text_mask"], regions], dim=1)[:, None, None, :]
