"""ViLT (Kim et al. 2021): its entry and its configurations; `model` builds the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.models.encoder import TINY, EncoderConfig, image_type_problem
from trainables.models.entry import HeadStyle, ModelEntry, Shapes


@dataclass(frozen=True, kw_only=True)
class ViltConfig(EncoderConfig):
    vocab_size: int = 30522
    max_position_embeddings: int = 40
    image_size: int = 384
    patch_size: int = 32
    modality_types: int = 2
    """Rows of the type table: 0 for text, 1 for an image, 2 for the second image of a pair."""

    def pools(self) -> Mapping[str, Shapes]:
        encoder = self.stack(
            "encoder.layer", self.num_hidden_layers, projections="attention.attention"
        )
        return {"encoder": encoder, "encoder+pooler": self.with_pooler(encoder)}

    def problem(self) -> str:
        if self.patch_size > self.image_size:
            return (
                f"patch_size {self.patch_size} is larger than image_size {self.image_size}; "
                "change one of them"
            )
        return super().problem() or image_type_problem("modality_types", self.modality_types)


MODEL = ModelEntry(
    module="trainables.models.vilt.model",
    sizes={
        "tiny": ViltConfig(**TINY, image_size=32, patch_size=8),
        "base": ViltConfig(),
    },
    modality="pixels",
    tokenizer="wordpiece-uncased",
    formats=("vilt",),
    head=HeadStyle(layers="norm_gelu"),
    semantics=2,
)
