"""From rows of a split to the padded tensors that `Backbone.forward` names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.schema.examples import Pixels, Regions, Split

Rows = NDArray[Any]


def text_batch(split: Split, rows: Rows) -> dict[str, Tensor]:
    """`input_ids` and `text_mask` (B, longest), and `text_kinds` where the split has them, of the
    texts numbered in `rows` (B,)."""
    ids, lengths = split.texts.padded(rows, np.int64)
    found = {"input_ids": torch.from_numpy(ids), "text_mask": _mask(lengths, ids.shape[1])}
    if split.kinds is not None:
        found["text_kinds"] = torch.from_numpy(split.kinds.padded(rows, np.int64)[0])
    return found


def image_batch(
    seen: Regions | Pixels, rows: Rows, *, patch: int = 0, blind: bool = False
) -> dict[str, Tensor]:
    """What the model sees of the images numbered in `rows` (B,).

    Regions: `region_features` (B, N, D) float32, `region_boxes` (B, N, 7), `region_mask` (B, N).
    Pixels, whose model has patches of side `patch`: `pixel_values` (B, 3, height, width) in
    [-1, 1], zero past each image's end, and `patch_mask` (B, rows, columns). `blind` turns all that
    an image says to zero and keeps its shape: what is then learnt comes from the text alone.
    """
    if isinstance(seen, Regions):
        features, lengths = seen.features.padded(rows)
        boxes, _ = seen.boxes.padded(rows)
        found = {
            # torch makes float32 of float16 at 2.5 times numpy's pace.
            "region_features": torch.from_numpy(features).float(),
            "region_boxes": torch.from_numpy(boxes),
        }
        mask = {"region_mask": _mask(lengths, features.shape[1])}
    else:
        found, mask = _pixels(seen, rows, patch)
    if blind:
        found = {name: torch.zeros_like(value) for name, value in found.items()}
    return found | mask


def _pixels(seen: Pixels, rows: Rows, patch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    sizes = seen.sizes[rows]
    height, width = sizes.max(axis=0).tolist()
    bytes_ = np.zeros((len(rows), height, width, 3), np.uint8)
    there = torch.zeros(len(rows), 1, height, width, dtype=torch.bool)
    mask = torch.zeros(len(rows), height // patch, width // patch, dtype=torch.bool)
    for place, (image, (h, w)) in enumerate(
        zip(seen.pixels.rows(rows), sizes.tolist(), strict=True)
    ):
        bytes_[place, :h, :w] = image.reshape(h, w, 3)
        there[place, :, :h, :w] = True
        mask[place, : h // patch, : w // patch] = True
    # One conversion of the whole batch: image by image it takes three times as long.
    values = torch.from_numpy(bytes_).permute(0, 3, 1, 2).contiguous().float()
    values = values.div_(127.5).sub_(1.0)
    if (sizes != sizes[0]).any():  # images of one size leave nothing to clear
        values = values.mul_(there)
    return {"pixel_values": values}, {"patch_mask": mask}


def _mask(lengths: NDArray[np.int64], width: int) -> Tensor:
    return torch.from_numpy(np.arange(width) < lengths[:, None])
