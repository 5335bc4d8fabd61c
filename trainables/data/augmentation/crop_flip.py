"""Random crop of the padded image and random horizontal flip, as torchvision's references train on
CIFAR: `RandomCrop(32, padding=4)` and `RandomHorizontalFlip()`."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import functional

from trainables.seeds import Rng

PADDING = 1 / 8
"""Black pixels that are added on each side, as a share of the image's height or width: 4 of 32
pixels, as for CIFAR."""


def augment(pixels: Tensor, rng: Rng) -> Tensor:
    """Return the image (3, height, width) shifted by up to `PADDING` in each direction, and
    mirrored with probability 1/2."""
    height, width = pixels.shape[-2:]
    above, left = int(height * PADDING), int(width * PADDING)
    padded = functional.pad(pixels, [left, above, left, above])
    top, start = int(rng.integers(2 * above + 1)), int(rng.integers(2 * left + 1))
    cropped: Tensor = functional.crop(padded, top, start, height, width)
    if rng.uniform() < 0.5:
        cropped = functional.horizontal_flip(cropped)
    return cropped
