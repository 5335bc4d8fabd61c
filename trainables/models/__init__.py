"""The architectures, by name. Nothing heavy is imported here: planning reads this table too.

To add one, write `trainables/models/NAME.py` with `build`, `load`, `save_pretrained` and `CONFIGS`
(the protocol is in `base.py`) and add its line to `MODELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Modality: TypeAlias = Literal["regions", "pixels"]
POOLS = ("encoder", "encoder+pooler")
"""Which weights can be pruned: the encoder's matrices, without or with the pooler's. The second is
the pool of BERT-Tickets (Chen et al. 2020): no embeddings, no task head."""

_SETTINGS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    module: str
    modality: Modality
    """What the model sees of an image: region features with boxes, or pixels."""
    sizes: Mapping[str, Mapping[str, int]]
    """Size -> pool -> number of weights in it, without overrides."""
    settings: tuple[str, ...]
    """What `ModelSpec.overrides` may name."""
    semantics: int = 1
    """Raised by hand when a change to the module alters results; part of every trial's key."""


def _blocks(*, layers: int, hidden: int, ffn: int) -> dict[str, int]:
    """Pool sizes of a transformer encoder: four square matrices and two of the FFN per layer."""
    encoder = layers * (4 * hidden * hidden + 2 * hidden * ffn)
    return {"encoder": encoder, "encoder+pooler": encoder + hidden * hidden}


_TINY = _blocks(layers=2, hidden=64, ffn=256)
_BASE = _blocks(layers=12, hidden=768, ffn=3072)
_LARGE = _blocks(layers=24, hidden=1024, ffn=4096)

MODELS: dict[str, ModelEntry] = {
    "uniter": ModelEntry(
        module="trainables.models.uniter",
        modality="regions",
        sizes={"tiny": _TINY, "base": _BASE, "large": _LARGE},
        settings=(*_SETTINGS, "region_dim"),
    ),
    "vilt": ModelEntry(
        module="trainables.models.vilt",
        modality="pixels",
        sizes={"tiny": _TINY, "base": _BASE},
        settings=(*_SETTINGS, "image_size", "patch_size"),
    ),
}
