"""The augmentations of training images, by name.

An augmentation changes the pixels of an image while it is trained on, never while it is scored.
What it draws is a function of the seed, the step and the image: it does not depend on
micro-batches, on the number of workers, or on whether the run was resumed. Images that are in a
step several times look the same in it.

To add one, write `trainables/data/augmentation/NAME.py` with
`augment(pixels: Tensor, rng: Rng) -> Tensor` and add an entry to `AUGMENTATIONS`. `pixels` are the
image (3, height, width) as uint8 in RGB order, and so is the result, of the same shape. All draws
come from `rng` (`trainables.seeds`). One that gives other results than before needs a new name. An
augmentation from outside is one file with both, or an entry point (see `trainables.registry`). This
module imports nothing heavy, because planning reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainables.errors import RecipeError, suggest
from trainables.models import Modality
from trainables.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationEntry:
    module: str = ""
    """The module with `augment`; it is imported when a run trains. Empty: images stay as they
    are."""
    description: str = ""
    """One line: what it does, and whose it is."""


AUGMENTATIONS: Registry[AugmentationEntry] = Registry(
    AugmentationEntry,
    group="sweepstakes.augmentations",
    attribute="AUGMENTATION",
    builtin={
        "none": AugmentationEntry(description="images as they are"),
        "crop_flip": AugmentationEntry(
            module="trainables.data.augmentation.crop_flip",
            description="random crop of the padded image, and horizontal flip, as for CIFAR",
        ),
    },
)


def check_augmentation(name: str, modality: Modality, *, task: str, applies: bool) -> None:
    """Raise RecipeError unless the augmentation `name` can be applied by the task called `task` for
    a model of `modality`; `applies` says whether that task applies augmentations at all."""
    if name not in AUGMENTATIONS:
        raise RecipeError(
            f"recipe.augmentation = {name!r} is not known; {suggest(name, AUGMENTATIONS)}"
        )
    if not AUGMENTATIONS[name].module:
        return
    if modality != "pixels":
        raise RecipeError(
            f"recipe.augmentation = {name!r} changes pixels, the model reads {modality}; use none,"
            " or another model"
        )
    if not applies:
        raise RecipeError(
            f"recipe.augmentation = {name!r}: task {task} applies no augmentation; use none"
        )
