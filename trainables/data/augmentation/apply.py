"""Apply an augmentation to the images of a training batch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from trainables.data.augmentation import AUGMENTATIONS
from trainables.errors import TrainableError
from trainables.seeds import Rng

ChangePixels: TypeAlias = Callable[[Tensor, int], Tensor]
"""Takes an image (3, height, width) uint8 and its number in the split; returns it changed."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """The augmentation of a run's training images, by its name in `AUGMENTATIONS`."""

    name: str

    def of_batch(self, rng: Rng) -> ChangePixels | None:
        """Return what changes the images of a micro-batch, whose own draws come from `rng`; None if
        nothing does."""
        module = AUGMENTATIONS[self.name].module
        if not module:
            return None
        augment = importlib.import_module(module).augment
        step = rng.parent()

        def change(pixels: Tensor, image: int) -> Tensor:
            changed: Tensor = augment(pixels, step.child("augment", image))
            if changed.shape != pixels.shape or changed.dtype != pixels.dtype:
                raise TrainableError(
                    f"augmentation {self.name}: returned {changed.dtype} {tuple(changed.shape)} for"
                    f" {pixels.dtype} {tuple(pixels.shape)}; keep type and shape"
                )
            return changed

        return change


UNCHANGED = Augmentation("none")
