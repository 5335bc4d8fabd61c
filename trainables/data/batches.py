"""Turn rows of a split into the padded tensors that `Backbone.forward` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.augmentation.apply import ChangePixels
from trainables.data.schema.examples import Pixels, Regions, Split

Rows = NDArray[Any]
"""(B,): integers that number rows of a `Ragged` array or of an array of images."""
Colour = tuple[float, float, float]


def text_batch(split: Split, rows: Rows) -> dict[str, Tensor]:
    """Return `input_ids` and `text_mask` (B, longest) for the texts numbered in `rows` (B,), and
    `text_kinds` if the split has token types."""
    ids, lengths = split.texts.padded(rows, np.int64)
    batch = {"input_ids": torch.from_numpy(ids), "text_mask": _mask(lengths, ids.shape[1])}
    if split.token_types is not None:
        batch["text_kinds"] = torch.from_numpy(split.token_types.padded(rows, np.int64)[0])
    return batch


def image_batch(
    image_data: Regions | Pixels,
    rows: Rows,
    *,
    patch: int = 0,
    mean: Colour = (0.5, 0.5, 0.5),
    std: Colour = (0.5, 0.5, 0.5),
    blind: bool = False,
    change: ChangePixels | None = None,
) -> dict[str, Tensor]:
    """Return the model inputs for the images numbered in `rows` (B,).

    Regions: `region_features` (B, N, D) float32, `region_boxes` (B, N, 7), `region_mask` (B, N).
    Pixels, for a model with patches of side `patch`: `pixel_values` (B, 3, height, width), which
    are 0 to 1 before `mean` is subtracted and `std` divides, zero past each image's end, and
    `patch_mask` (B, rows, columns). `blind` sets the contents of all images to zero and keeps their
    shapes, so that a model can only learn from the text. `change` augments pixels.
    """
    if isinstance(image_data, Regions):
        features, lengths = image_data.features.padded(rows)
        boxes, _ = image_data.boxes.padded(rows)
        inputs = {
            # torch converts float16 to float32 2.5 times as fast as numpy.
            "region_features": torch.from_numpy(features).float(),
            "region_boxes": torch.from_numpy(boxes),
        }
        mask = {"region_mask": _mask(lengths, features.shape[1])}
    else:
        inputs, mask = _pixel_inputs(image_data, rows, patch, mean, std, change)
    if blind:
        inputs = {name: torch.zeros_like(value) for name, value in inputs.items()}
    return inputs | mask


def _pixel_inputs(
    images: Pixels,
    rows: Rows,
    patch: int,
    mean: Colour,
    std: Colour,
    change: ChangePixels | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    sizes = images.sizes[rows]
    height, width = sizes.max(axis=0).tolist()
    padded = np.zeros((len(rows), height, width, 3), np.uint8)
    inside = torch.zeros(len(rows), 1, height, width, dtype=torch.bool)
    mask = torch.zeros(len(rows), height // patch, width // patch, dtype=torch.bool)
    for i, (image, (h, w)) in enumerate(zip(images.pixels.rows(rows), sizes.tolist(), strict=True)):
        pixels = image.reshape(h, w, 3)
        if change is not None:
            # The view is of a read-only file, which torch does not take.
            tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
            pixels = change(tensor, int(rows[i])).numpy().transpose(1, 2, 0)
        padded[i, :h, :w] = pixels
        inside[i, :, :h, :w] = True
        mask[i, : h // patch, : w // patch] = True
    # The whole batch is converted at once: image by image it takes three times as long.
    values = torch.from_numpy(padded).permute(0, 3, 1, 2).contiguous().float()
    centre, scale = (torch.tensor(each).view(3, 1, 1) for each in (mean, std))
    values = values.div_(255 * scale).sub_(centre / scale)
    if (sizes != sizes[0]).any():  # images of one size have no padding to clear
        values = values.mul_(inside)
    return {"pixel_values": values}, {"patch_mask": mask}


def _mask(lengths: NDArray[np.int64], width: int) -> Tensor:
    return torch.from_numpy(np.arange(width) < lengths[:, None])
