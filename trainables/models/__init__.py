"""The architectures, by name. This module imports nothing heavy, because planning reads it too.

To add one, write `trainables/models/NAME.py` with `build`, `load`, `save_pretrained` and `CONFIGS`
(`base.py` describes the protocol) and add an entry to `MODELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainables.registry import Registry

Modality: TypeAlias = Literal["regions", "pixels"]

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
    """The image input: region features with boxes, or pixels."""
    formats: tuple[str, ...] = ()
    """Names of the data formats that the model reads, in order of preference. Tasks that make
    their own data need none."""
    sizes: Mapping[str, Mapping[str, int]]
    """Size -> pool -> number of weights in the pool, without overrides.

    A pool is a set of weights that can be pruned. `encoder` has the matrices of the transformer's
    layers. `encoder+pooler` adds the pooler's matrix and is the pool of BERT-Tickets (Chen et al.
    2020): no embeddings, no task head. `encoder-reached` exists for LXMERT only: see its module.
    """
    settings: tuple[str, ...]
    """The settings that `ModelSpec.overrides` may change."""
    semantics: int = 1
    """Increase it when a change to the module alters results; it is part of every trial's key."""


def _layer(hidden: int, ffn: int) -> int:
    """Count the weights of a layer: four square matrices of the attention and two of the FFN."""
    return 4 * hidden * hidden + 2 * hidden * ffn


def _single_stream(*, layers: int, hidden: int, ffn: int) -> dict[str, int]:
    encoder = layers * _layer(hidden, ffn)
    return {"encoder": encoder, "encoder+pooler": encoder + hidden * hidden}


def _two_streams(*, text: int, regions: int, cross: int, hidden: int, ffn: int) -> dict[str, int]:
    """Count LXMERT's weights. A cross layer has a full layer per stream, and one attention between
    the two streams that both share."""
    cross_attention = cross * 4 * hidden * hidden
    encoder = (text + regions + 2 * cross) * _layer(hidden, ffn) + cross_attention
    return {
        "encoder": encoder,
        "encoder+pooler": encoder + hidden * hidden,
        "encoder-reached": encoder - _layer(hidden, ffn),
    }


_TINY = _single_stream(layers=2, hidden=64, ffn=256)
_BASE = _single_stream(layers=12, hidden=768, ffn=3072)
_LARGE = _single_stream(layers=24, hidden=1024, ffn=4096)

_BUILTIN: dict[str, ModelEntry] = {
    "uniter": ModelEntry(
        module="trainables.models.uniter",
        modality="regions",
        formats=("uniter",),
        sizes={"tiny": _TINY, "base": _BASE, "large": _LARGE},
        settings=(*_SETTINGS, "region_dim"),
    ),
    "lxmert": ModelEntry(
        module="trainables.models.lxmert",
        modality="regions",
        formats=("lxmert",),
        sizes={
            "tiny": _two_streams(text=2, regions=1, cross=2, hidden=64, ffn=256),
            "base": _two_streams(text=9, regions=5, cross=5, hidden=768, ffn=3072),
        },
        settings=(*_SETTINGS, "r_layers", "x_layers", "region_dim"),
    ),
    "vilt": ModelEntry(
        module="trainables.models.vilt",
        modality="pixels",
        formats=("vilt",),
        sizes={"tiny": _TINY, "base": _BASE},
        settings=(*_SETTINGS, "image_size", "patch_size", "modality_types"),
        semantics=2,
    ),
}

MODELS: Registry[ModelEntry] = Registry(
    ModelEntry, group="sweepstakes.models", attribute="MODEL", builtin=_BUILTIN
)
