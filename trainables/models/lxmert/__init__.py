"""LXMERT (Tan and Bansal 2019): its entry and its configurations; `model` builds the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainables.models.encoder import TINY, EncoderConfig
from trainables.models.entry import HeadStyle, ModelEntry, Shapes


@dataclass(frozen=True, kw_only=True)
class LxmertConfig(EncoderConfig):
    """Has the pool `encoder-reached` too, without the matrices that are never trained (see
    `trainables.models.lxmert.model`)."""

    num_hidden_layers: int = 9
    r_layers: int = 5
    """Number of layers that read only regions."""
    x_layers: int = 5
    """Number of cross-modality layers, which read both."""
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    region_dim: int = 2048

    def pools(self) -> Mapping[str, Shapes]:
        stacks = {
            **self.stack("encoder.layer", self.num_hidden_layers),
            **self.stack("encoder.r_layers", self.r_layers),
        }
        encoder, reached = dict(stacks), dict(stacks)
        for layer in range(self.x_layers):
            prefix = f"encoder.x_layers.{layer}."
            shapes = self._cross_layer(prefix)
            encoder |= shapes
            last = layer == self.x_layers - 1
            unreached = f"{prefix}visn_" if last else "-"
            reached |= {n: shape for n, shape in shapes.items() if not n.startswith(unreached)}
        return {
            "encoder": encoder,
            "encoder+pooler": self.with_pooler(encoder),
            "encoder-reached": reached,
        }

    def _cross_layer(self, prefix: str) -> Shapes:
        """Return the matrices of a cross layer: a full layer per stream, and one attention between
        the two streams that both share."""
        return {
            **self.attention(f"{prefix}visual_attention.att", f"{prefix}visual_attention.output"),
            **self.attention(f"{prefix}lang_self_att.self", f"{prefix}lang_self_att.output"),
            **self.attention(f"{prefix}visn_self_att.self", f"{prefix}visn_self_att.output"),
            **self.feed_forward(f"{prefix}lang_inter", f"{prefix}lang_output"),
            **self.feed_forward(f"{prefix}visn_inter", f"{prefix}visn_output"),
        }


MODEL = ModelEntry(
    module="trainables.models.lxmert.model",
    sizes={
        "tiny": LxmertConfig(**TINY, r_layers=1, x_layers=2, region_dim=192),
        "base": LxmertConfig(),
    },
    modality="regions",
    tokenizer="wordpiece-uncased",
    formats=("lxmert",),
    head=HeadStyle(layers="gelu_norm", loss="binary"),
)
