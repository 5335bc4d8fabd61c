"""UNITER (Chen et al. 2020): its entry and its configurations; `model` builds the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.models.encoder import TINY, EncoderConfig, image_type_problem
from trainables.models.entry import HeadStyle, ModelEntry, Shapes


@dataclass(frozen=True, kw_only=True)
class UniterConfig(EncoderConfig):
    vocab_size: int = 28996
    max_position_embeddings: int = 512
    region_dim: int = 2048

    def pools(self) -> Mapping[str, Shapes]:
        encoder = self.stack("encoder.layer", self.num_hidden_layers)
        return {"encoder": encoder, "encoder+pooler": self.with_pooler(encoder)}

    def problem(self) -> str:
        return super().problem() or image_type_problem("type_vocab_size", self.type_vocab_size)


MODEL = ModelEntry(
    module="trainables.models.uniter.model",
    sizes={
        "tiny": UniterConfig(**TINY, region_dim=192),
        "base": UniterConfig(),
        "large": UniterConfig(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        ),
    },
    modality="regions",
    tokenizer="wordpiece-cased",
    formats=("uniter",),
    head=HeadStyle(layers="gelu_norm", pairs="attention", loss="binary"),
    sequences={"retrieval": 3},
)
