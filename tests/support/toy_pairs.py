"""A model from outside the package, as a user writes it: one file for tasks of the package.

The model reads texts and regions, and has one layer. A table of types tells texts from images; for
NLVR2 it gets a row for the second image, whose sequence attends to that of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import torch
from torch import Tensor, nn

from trainables.errors import CheckpointError
from trainables.models import EmbeddingExtension, HeadStyle, ModelConfig, ModelEntry, Shapes
from trainables.models.base import Backbone, Encoded, image_input, image_type_embedding
from trainables.models.checkpoint import Checkpoint, load_checkpoint
from trainables.spec import ModelSpec, Recipe


@dataclass(frozen=True, kw_only=True)
class PairsConfig(ModelConfig):
    hidden_size: int = 16
    num_attention_heads: int = 2
    vocab_size: int = 300
    max_text: int = 64
    region_dim: int = 8
    types: int = 2

    def pools(self) -> Mapping[str, Shapes]:
        return {"layer": {"layer.weight": (self.hidden_size, self.hidden_size)}}


MODEL = ModelEntry(
    module=__name__,
    sizes={"tiny": PairsConfig()},
    modality="regions",
    tokenizer="wordpiece-cased",
    formats=("uniter",),
    pool="layer",
    head=HeadStyle(pairs="attention"),
    recipes={"nlvr2": Recipe(steps=2, batch_size=4, accumulate=2, lr=1e-2)},
    embedding_extensions={
        "nlvr2": (
            EmbeddingExtension(setting="types", weight="types.weight", extra_rows=1, init_row=1),
        )
    },
    sequences={"retrieval": 5},
)


class ToyPairs(Backbone):
    def __init__(self, architecture: str, config: PairsConfig, dropout: float) -> None:
        super().__init__(architecture, config)
        hidden = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, hidden)
        self.regions = nn.Linear(config.region_dim, hidden)
        self.types = nn.Embedding(config.types, hidden)
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(hidden, hidden)

    def forward(self, batch: Mapping[str, Tensor]) -> Encoded:
        text = self.words(batch["input_ids"]) + self.types.weight[0]
        regions = self.regions(image_input(batch, "region_features", self.layer.weight.dtype))
        image = regions + image_type_embedding(self.types, batch)
        mask = batch.get("region_mask", image.new_ones(image.shape[:2], dtype=torch.bool))
        mask = torch.cat([batch["text_mask"], mask], dim=1)[..., None]
        hidden = self.layer(self.dropout(torch.cat([text, image], dim=1))).tanh() * mask
        words = text.shape[1]
        return Encoded(hidden.sum(dim=1) / mask.sum(dim=1), hidden[:, :words], hidden[:, words:])


def build(spec: ModelSpec, *, dropout: float) -> ToyPairs:
    return ToyPairs(spec.architecture, MODEL.config(spec), dropout)


def load(path: Path, spec: ModelSpec, *, fill: Mapping[str, Tensor] | None = None) -> Checkpoint:
    return load_checkpoint(path, spec, build, prefixes=(), heads=("head.",), fill=fill)


def save_pretrained(state: Mapping[str, Tensor], spec: ModelSpec, folder: Path) -> Never:
    raise CheckpointError(f"model {spec.architecture}: transformers has no class to load it with")
