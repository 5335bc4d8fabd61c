"""The configuration of BERT-like encoders, and their matrices.

This module imports nothing heavy, because planning reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainables.models.entry import ModelConfig, Shapes


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """Sizes of a BERT-like encoder and its text embeddings, named as in transformers.

    The pool `encoder` has the matrices of the encoder's layers. `encoder+pooler` adds the pooler's
    matrix and is the pool of BERT-Tickets (Chen et al. 2020): no embeddings, no task head.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    """In a model with several stacks, the layers that read only text."""
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    initializer_range: float = 0.02

    @property
    def max_text(self) -> int:
        return self.max_position_embeddings

    def problem(self) -> str:
        if self.hidden_size % self.num_attention_heads:
            return (
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}; change one of them"
            )
        return ""

    def attention(self, projections: str, output: str) -> Shapes:
        """Return the four matrices of an attention whose modules have these names."""
        square = (self.hidden_size, self.hidden_size)
        names = [f"{projections}.{each}.weight" for each in ("query", "key", "value")]
        return dict.fromkeys([*names, f"{output}.dense.weight"], square)

    def feed_forward(self, intermediate: str, output: str) -> Shapes:
        """Return the two matrices of a feed-forward network whose modules have these names."""
        hidden, wide = self.hidden_size, self.intermediate_size
        return {
            f"{intermediate}.dense.weight": (wide, hidden),
            f"{output}.dense.weight": (hidden, wide),
        }

    def stack(self, name: str, layers: int, *, projections: str = "attention.self") -> Shapes:
        """Return the matrices of a stack of layers."""
        shapes: dict[str, tuple[int, ...]] = {}
        for prefix in (f"{name}.{layer}" for layer in range(layers)):
            shapes |= self.attention(f"{prefix}.{projections}", f"{prefix}.attention.output")
            shapes |= self.feed_forward(f"{prefix}.intermediate", f"{prefix}.output")
        return shapes

    def with_pooler(self, encoder: Shapes) -> Shapes:
        return {**encoder, "pooler.dense.weight": (self.hidden_size, self.hidden_size)}


def image_type_problem(setting: str, rows: int) -> str:
    """Return what is wrong with the number of rows of the type table, whose size is `setting`:
    images need a row."""
    if rows < 2:
        return f"{setting} = {rows}; images are of type 1, so give 2 or more"
    return ""


TINY: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "vocab_size": 128,
    "max_position_embeddings": 32,
    # 1 / sqrt(hidden_size). With BERT's 0.02, meant for 768 and more, such a small network stays on
    # its first plateau for long: see the recipe in trainables/tasks.
    "initializer_range": 0.125,
}
"""The encoder of every model's size `tiny`, for tests and laptops."""
