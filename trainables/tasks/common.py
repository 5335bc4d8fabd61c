"""Shared code of tasks on published data: base class, options, opening the data, lengths."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

from trainables.data import batches
from trainables.data.formats import FORMATS, choose_format
from trainables.data.open import open_data
from trainables.data.reference import DataReference
from trainables.data.schema.examples import Data, Pixels, Regions, Split
from trainables.data.sizes import DataSizes, check_sizes
from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.spec import TaskSpec
from trainables.tasks import resolve_options
from trainables.tasks.base import Batch, Indices, Task, TaskSource
from trainables.tasks.heads import symmetric_kl


class PublishedTask(Task):
    """Base class of tasks on published data. It has what most of them share; a task overrides what
    it does differently."""

    def __init__(self, data: Data, source: TaskSource, spec: TaskSpec, backbone: Backbone) -> None:
        self.data = data
        self.name = spec.name
        self.source = source
        self.options = resolve_options(spec)
        self.blind = bool(self.options["blind"])
        self.architecture = backbone.architecture
        self.patch_size = backbone.patch_size
        self.model = MODELS[backbone.architecture]

    @classmethod
    def open(cls, source: TaskSource, spec: TaskSpec, backbone: Backbone) -> Self:
        """Open the data and return the task on them."""
        return cls(open_task_data(source, spec, backbone), source, spec, backbone)

    @property
    def num_eval(self) -> int:
        return len(self.data.held_out)

    def lengths(self) -> Indices:
        return example_lengths(self.data.train, self.patch_size)

    def uniter_lengths(self) -> Indices:
        """Return the lengths without [CLS] and [SEP] (`DetectFeatTxtTokDataset` in UNITER's
        `data/data.py`)."""
        return self.lengths() - 2

    def divergence(self, clean: Tensor, perturbed: Tensor, batch: Batch) -> Tensor:
        return symmetric_kl(clean, perturbed)

    def image_batch(
        self, split: Split, rows: batches.Rows, rng: Rng | None = None
    ) -> dict[str, Tensor]:
        """Return the model inputs for the images numbered in `rows` (B,). With the generator of a
        training batch, they are changed by the recipe's augmentation."""
        return batches.image_batch(
            split.image_data,
            rows,
            patch=self.patch_size,
            mean=self.model.pixel_mean,
            std=self.model.pixel_std,
            blind=self.blind,
            change=self.source.augmentation.of_batch(rng) if rng is not None else None,
        )


def open_task_data(source: TaskSource, spec: TaskSpec, backbone: Backbone) -> Data:
    """Open the task's data in the format that `backbone` reads.

    Raises DataError unless the data fit the backbone.
    """
    form = choose_format(spec.name, backbone.architecture, spec.format)
    data = open_data(
        source.reference,
        source.cache,
        spec,
        form,
        image_size=backbone.image_size,
        patch_size=backbone.patch_size,
        region_features=source.region_features,
    )
    extra_words = FORMATS[form].layouts[spec.name].extra_words
    check_data_fits(data, backbone, source.reference, extra_words)
    return data


def check_data_fits(
    data: Data, backbone: Backbone, origin: DataReference | Path, extra_words: int = 0
) -> None:
    """Raise DataError unless `backbone` can read `data`, which were opened from `origin` and may
    use `extra_words` word ids beyond the vocabulary."""
    for split in (data.train, data.held_out):
        regions = split.image_data if isinstance(split.image_data, Regions) else None
        sizes = DataSizes(
            words=data.vocabulary.size + extra_words,
            longest_text=int(split.texts.lengths().max(initial=0)),
            region_dims=(regions.features.width[0] if regions else 0,),
        )
        check_sizes(sizes, backbone, origin)


def image_lengths(image_data: Regions | Pixels, patch_size: int = 0) -> Indices:
    """Return (M,) the number of each image's regions, or of its patches of side `patch_size` plus
    the image's own [CLS]."""
    if isinstance(image_data, Regions):
        return image_data.features.lengths()
    patches: Indices = 1 + (image_data.sizes.astype(np.int64) // patch_size).prod(axis=1)
    return patches


def example_lengths(split: Split, patch_size: int = 0) -> Indices:
    """Return (E,) the length of each example's longest text plus its longest image."""
    per_example = len(split.texts) // len(split)
    text_lengths = split.texts.lengths().reshape(len(split), per_example).max(axis=1, initial=0)
    images = image_lengths(split.image_data, patch_size)[split.images]
    longest: Indices = text_lengths + images.max(axis=1)
    return longest


def index_batches(count: int, examples: int, batch_size: int) -> Iterator[Indices]:
    """Yield the first `examples` (0: all) of 0 .. count - 1 in batches of `batch_size`; the last
    batch may be smaller."""
    limit = min(examples or count, count)
    for first in range(0, limit, batch_size):
        yield np.arange(first, min(first + batch_size, limit))
