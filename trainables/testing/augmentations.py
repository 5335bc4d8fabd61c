"""The contract of augmentations."""

from __future__ import annotations

import torch

from trainables.data.augmentation import AUGMENTATIONS
from trainables.data.augmentation.apply import Augmentation
from trainables.seeds import Rng

_SIZES = ((32, 32), (24, 40), (7, 5))


def check_augmentation_contract(name: str) -> None:
    """Check an augmentation of `AUGMENTATIONS`, other than the one that changes nothing.

    The result keeps type and shape. It is a function of the seed, the step and the image, and
    leaves the image itself and torch's generator alone. Different images of a step are changed
    differently.
    """
    assert AUGMENTATIONS[name].module, f"{name} changes nothing"
    change = Augmentation(name).of_batch(Rng(0, "batch", 3, 0))
    other_batch = Augmentation(name).of_batch(Rng(0, "batch", 3, 1))
    later = Augmentation(name).of_batch(Rng(0, "batch", 4, 0))
    assert change is not None
    assert other_batch is not None
    assert later is not None
    differs = {"image": False, "step": False}
    for size in _SIZES:
        draw = torch.Generator().manual_seed(size[0])
        image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=draw)
        before, generator = image.clone(), torch.random.get_rng_state()
        first = change(image, 5)
        assert torch.equal(image, before), "it writes to the image that it is given"
        assert torch.equal(torch.random.get_rng_state(), generator), "it uses torch's generator"
        assert torch.equal(first, change(image, 5)), "one image of a step is changed in two ways"
        assert torch.equal(first, other_batch(image, 5)), (
            "the change depends on the micro-batch: draw from the given stream only"
        )
        for number in range(8):
            differs["image"] |= not torch.equal(first, change(image, number))
            differs["step"] |= not torch.equal(change(image, number), later(image, number))
    same = [what for what, different in differs.items() if not different]
    assert not same, f"the change does not depend on the {same[0]}"
