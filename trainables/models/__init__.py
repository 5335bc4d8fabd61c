"""The architectures, by name. Nothing heavy is imported here: planning reads this table too.

To add one, write `trainables/models/NAME.py` with `build`, `load`, `save_pretrained` and `CONFIGS`
(the protocol is in `base.py`) and add its line to `MODELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Modality: TypeAlias = Literal["regions", "pixels"]
Format: TypeAlias = Literal["uniter", "lxmert", "vilt"]
"""UNITER's LMDB databases, LXMERT's TSV and JSON files, ViLT's Arrow tables."""

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
    format: Format
    """The published data that its authors trained on; `trainables.data` has a reader of each."""
    sizes: Mapping[str, Mapping[str, int]]
    """Size -> pool -> number of weights in it, without overrides.

    A pool is a set of weights that can be pruned. `encoder` are the matrices of the transformer's
    layers; `encoder+pooler` adds the pooler's and is the pool of BERT-Tickets (Chen et al. 2020):
    no embeddings, no task head. `encoder-reached` is LXMERT's: see its module.
    """
    settings: tuple[str, ...]
    """What `ModelSpec.overrides` may name."""
    semantics: int = 1
    """Raised by hand when a change to the module alters results; part of every trial's key."""


def _layer(hidden: int, ffn: int) -> int:
    """Weights of a layer: four square matrices of its attention and two of the FFN."""
    return 4 * hidden * hidden + 2 * hidden * ffn


def _single_stream(*, layers: int, hidden: int, ffn: int) -> dict[str, int]:
    encoder = layers * _layer(hidden, ffn)
    return {"encoder": encoder, "encoder+pooler": encoder + hidden * hidden}


def _two_streams(*, words: int, regions: int, cross: int, hidden: int, ffn: int) -> dict[str, int]:
    """A cross layer has a whole layer per stream, and one attention between them that both use."""
    between = cross * 4 * hidden * hidden
    encoder = (words + regions + 2 * cross) * _layer(hidden, ffn) + between
    return {
        "encoder": encoder,
        "encoder+pooler": encoder + hidden * hidden,
        "encoder-reached": encoder - _layer(hidden, ffn),
    }


_TINY = _single_stream(layers=2, hidden=64, ffn=256)
_BASE = _single_stream(layers=12, hidden=768, ffn=3072)
_LARGE = _single_stream(layers=24, hidden=1024, ffn=4096)

MODELS: dict[str, ModelEntry] = {
    "uniter": ModelEntry(
        module="trainables.models.uniter",
        modality="regions",
        format="uniter",
        sizes={"tiny": _TINY, "base": _BASE, "large": _LARGE},
        settings=(*_SETTINGS, "region_dim"),
    ),
    "lxmert": ModelEntry(
        module="trainables.models.lxmert",
        modality="regions",
        format="lxmert",
        sizes={
            "tiny": _two_streams(words=2, regions=1, cross=2, hidden=64, ffn=256),
            "base": _two_streams(words=9, regions=5, cross=5, hidden=768, ffn=3072),
        },
        settings=(*_SETTINGS, "r_layers", "x_layers", "region_dim"),
    ),
    "vilt": ModelEntry(
        module="trainables.models.vilt",
        modality="pixels",
        format="vilt",
        sizes={"tiny": _TINY, "base": _BASE},
        settings=(*_SETTINGS, "image_size", "patch_size", "modality_types"),
        semantics=2,
    ),
}
