"""Random inputs for a model, by what its backbone reads."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.spec import ModelSpec

TEXT_TOKENS, REGIONS = 6, 4


def build_backbone(spec: ModelSpec, seed: int = 0) -> Backbone:
    """Return the backbone of `spec` with random weights, without dropout."""
    torch.manual_seed(seed)
    backbone: Backbone = import_module(MODELS[spec.architecture].module).build(spec, dropout=0.0)
    return backbone


def random_batch(backbone: Backbone, size: int = 2) -> dict[str, Tensor]:
    """Return inputs of `size` examples, the same in every call."""
    draw = torch.Generator().manual_seed(0)
    batch: dict[str, Tensor] = {}
    if backbone.max_text:
        shape = (size, min(TEXT_TOKENS, backbone.max_text))
        batch["input_ids"] = torch.randint(1, backbone.vocab_size, shape, generator=draw)
        batch["text_mask"] = torch.ones(shape, dtype=torch.bool)
    if backbone.modality == "regions":
        shape = (size, REGIONS)
        batch["region_features"] = torch.randn(*shape, backbone.region_dim, generator=draw)
        batch["region_boxes"] = torch.rand(*shape, 7, generator=draw)
    else:
        side = backbone.image_size
        batch["pixel_values"] = torch.randn(size, 3, side, side, generator=draw)
    return batch
