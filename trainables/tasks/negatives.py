"""False pairs of an image and a text, drawn so that none of them is a true one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainables.data.schema.examples import Split
from trainables.errors import DataError
from trainables.seeds import Chance

Rows = NDArray[np.int64]


class Negatives:
    """Of the examples of a split with one text and one image each. An image may have several texts;
    none of them is drawn as a false text of it."""

    def __init__(self, split: Split) -> None:
        own = split.images[:, 0]
        self._images, place, self._count = np.unique(own, return_inverse=True, return_counts=True)
        """Image rows that have a text; per image, the number of its texts."""
        if len(self._images) < 2:
            raise DataError(f"{len(self._images)} image: false pairs need two or more; add data")
        # 32 bits: the pre-training corpora have 9 million captions.
        self._place = place.astype(np.int32)
        """Per example, the place of its image among them."""
        self._texts = np.argsort(own, kind="stable").astype(np.int32)
        """Examples, an image's together."""
        self._first = np.cumsum(self._count) - self._count

    def images(self, examples: Rows, chance: Chance) -> Rows:
        """(B,) an image row for each example, evenly among those that are not its own."""
        own = self._place[examples]
        drawn = chance.below(len(self._images) - 1, len(examples))
        return self._images[drawn + (drawn >= own)].astype(np.int64)

    def texts(self, examples: Rows, count: int, chance: Chance) -> Rows:
        """(B, count) examples whose text is false of the image of each, evenly, with repetition."""
        own = self._place[examples][:, None]
        others = len(self._texts) - self._count[own]
        drawn = (chance.uniform(len(examples), count) * others).astype(np.int64)
        found: Rows = self._texts[drawn + self._count[own] * (drawn >= self._first[own])]
        return found.astype(np.int64)
