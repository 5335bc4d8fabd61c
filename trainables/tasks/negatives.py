"""Sampling of negative pairs of an image and a text; a true pair is never drawn."""

from __future__ import annotations

import numpy as np

from trainables.data.schema.examples import Split
from trainables.errors import DataError
from trainables.seeds import Rng
from trainables.tasks.base import Indices


class NegativeSampler:
    """Samples negatives in a split whose examples have one text and one image each. An image may
    have several texts; none of them is drawn as its negative."""

    def __init__(self, split: Split) -> None:
        image_rows = split.images[:, 0]
        self._images, image_index, self._text_counts = np.unique(
            image_rows, return_inverse=True, return_counts=True
        )
        """Image rows that have a text; the number of texts of each of them."""
        if len(self._images) < 2:
            raise DataError(f"{len(self._images)} image: negative pairs need two or more; add data")
        # 32 bits: the pre-training corpora have 9 million captions.
        self._image_index = image_index.astype(np.int32)
        """The position of each example's image in `_images`."""
        self._texts = np.argsort(image_rows, kind="stable").astype(np.int32)
        """Examples, grouped by image."""
        self._first_text = np.cumsum(self._text_counts) - self._text_counts

    def sample_images(self, examples: Indices, rng: Rng) -> Indices:
        """Draw (B,) an image row for each example, uniformly among the images of other examples."""
        true_image = self._image_index[examples]
        drawn = rng.integers(len(self._images) - 1, len(examples))
        return self._images[drawn + (drawn >= true_image)].astype(np.int64)

    def sample_texts(self, examples: Indices, count: int, rng: Rng) -> Indices:
        """Draw (B, count) examples whose text does not belong to the image of each example,
        uniformly and with replacement."""
        image = self._image_index[examples][:, None]
        others = len(self._texts) - self._text_counts[image]
        drawn = (rng.uniform(len(examples), count) * others).astype(np.int64)
        skipped = self._text_counts[image] * (drawn >= self._first_text[image])
        negatives: Indices = self._texts[drawn + skipped]
        return negatives.astype(np.int64)
