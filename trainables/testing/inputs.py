"""Random inputs for a model, by what its backbone reads."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.models.base import Backbone

TEXT_TOKENS, REGIONS = 6, 4


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
