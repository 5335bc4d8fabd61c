"""Small padded batches for the backbones, and backbones with random biases and LayerNorms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainables.errors import CheckpointError
from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.spec import ModelSpec

PATCH = 8
TEXT = torch.arange(9) < torch.tensor([[9], [4], [6]])
REGIONS = torch.arange(5) < torch.tensor([[2], [5], [3]])


def noisy_backbone(name: str, *, dropout: float = 0.0) -> Backbone:
    """Build a backbone of size tiny, with noise on all weights, since biases and LayerNorms are
    initialised to 0 and 1."""
    torch.manual_seed(0)
    module = import_module(MODELS[name].module)
    built: Backbone = module.build(ModelSpec(architecture=name, size="tiny"), dropout=dropout)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built


def text_inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(1, 128, (3, 9), generator=draw) * TEXT, "text_mask": TEXT}


def region_inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    return {
        "region_features": torch.randn(3, 5, 192, generator=draw),
        "region_boxes": torch.rand(3, 5, 7, generator=draw),
        "region_mask": REGIONS,
    }


def image_inputs(sizes: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    """Images with the given (rows, columns) of patches."""
    draw = torch.Generator().manual_seed(3)
    rows, columns = (max(side) for side in zip(*sizes, strict=True))
    pixels = torch.zeros(len(sizes), 3, rows * PATCH, columns * PATCH)
    mask = torch.zeros(len(sizes), rows, columns, dtype=torch.bool)
    for image, (h, w) in enumerate(sizes):
        shape = (3, h * PATCH, w * PATCH)
        pixels[image, :, : shape[1], : shape[2]] = torch.randn(shape, generator=draw)
        mask[image, :h, :w] = True
    return {"pixel_values": pixels, "patch_mask": mask}


def batch_for(name: str) -> dict[str, Tensor]:
    if MODELS[name].modality == "regions":
        return text_inputs() | region_inputs()
    return text_inputs() | image_inputs([(4, 6), (6, 4), (4, 4)])


def gradients(model: nn.Module, out: Tensor) -> dict[str, Tensor | None]:
    """Return the gradients of a sum of `out` whose entries all have different weights."""
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    model.zero_grad()
    (out * weights).sum().backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def largest_difference(
    ours: Mapping[str, Tensor | None], theirs: Mapping[str, Tensor | None]
) -> float:
    """Return the largest difference of gradients of equal names, over the largest entry."""
    assert ours.keys() == theirs.keys()
    largest = difference = 0.0
    for name, a in ours.items():
        b = theirs[name]
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            largest = max(largest, float(b.abs().max()))
            difference = max(difference, float((a - b).abs().max()))
    return difference / largest


def load_error(name: str, file: Path, *overrides: tuple[str, int]) -> str:
    """Return the error message, of one line, when `file` is loaded as weights of the tiny model."""
    spec = ModelSpec(architecture=name, size="tiny", overrides=overrides)
    with pytest.raises(CheckpointError) as caught:
        import_module(MODELS[name].module).load(file, spec)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    return message
