"""What tasks on published data share: opening it, and the lengths and order of examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.open import open_data
from trainables.data.schema.examples import Data, Pixels, Regions, Split
from trainables.data.schema.layouts import LAYOUTS
from trainables.errors import DataError, TrainableError
from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.spec import Scalar, TaskSpec
from trainables.tasks import TASKS
from trainables.tasks.base import Source


def options(spec: TaskSpec) -> dict[str, Scalar]:
    """The task's options with the defaults; TrainableError for one that it does not take."""
    defaults = TASKS[spec.name].options
    for name, value in spec.options:
        if name not in defaults:
            known = ", ".join(defaults) or "none"
            raise TrainableError(f"task {spec.name}: no option {name!r}; options: {known}")
        if type(value) is not type(defaults[name]):
            raise TrainableError(
                f"task {spec.name}: option {name} = {value!r}; "
                f"give a {type(defaults[name]).__name__}, such as {defaults[name]!r}"
            )
    return {**defaults, **dict(spec.options)}


def read(source: Source, spec: TaskSpec, backbone: Backbone) -> Data:
    """The task's data in the form that `backbone` reads; DataError unless they fit."""
    form = MODELS[backbone.architecture].format
    data = open_data(
        source.data,
        source.cache,
        spec,
        form,
        image_size=backbone.image_size,
        patch_size=backbone.patch_size,
    )
    check(data, backbone, source.data, LAYOUTS[spec.name, form].extra_words)
    return data


def check(data: Data, backbone: Backbone, folder: Path, extra_words: int = 0) -> None:
    """DataError unless `backbone` can read `data`, which came from `folder` and may use
    `extra_words` ids past its vocabulary's end."""
    words = data.vocabulary.size + extra_words
    if words > backbone.vocab_size:
        raise DataError(
            f"{folder}: a vocabulary of {words} words, the model has {backbone.vocab_size}; raise "
            f"its vocab_size by {words - backbone.vocab_size}"
        )
    for split in (data.train, data.held_out):
        longest = int(split.texts.lengths().max(initial=0))
        if longest > backbone.max_text:
            raise DataError(
                f"{folder}: a text of {longest} tokens, the model takes {backbone.max_text}; "
                "raise its max_position_embeddings"
            )
        dim = split.seen.features.width[0] if isinstance(split.seen, Regions) else 0
        if dim != backbone.region_dim:
            raise DataError(
                f"{folder}: region features of {dim} numbers, the model takes "
                f"{backbone.region_dim} (0: pixels); set its region_dim"
            )


def seen_lengths(seen: Regions | Pixels, patch: int = 0) -> NDArray[np.int64]:
    """(M,) regions, or patches of side `patch` and the image's own [CLS], of each image."""
    if isinstance(seen, Regions):
        return seen.features.lengths()
    patches: NDArray[np.int64] = 1 + (seen.sizes.astype(np.int64) // patch).prod(axis=1)
    return patches


def lengths(split: Split, patch: int = 0) -> NDArray[np.int64]:
    """(E,) tokens and regions or patches of each example's longest text beside its longest
    image."""
    words = split.texts.lengths().reshape(len(split), -1).max(axis=1)
    longest: NDArray[np.int64] = words + seen_lengths(split.seen, patch)[split.images].max(axis=1)
    return longest


def stretches(count: int, examples: int, size: int) -> Iterator[NDArray[np.int64]]:
    """The first `examples` (0: all) of 0 .. count - 1, in runs of `size`, the last one shorter."""
    wanted = min(examples or count, count)
    for first in range(0, wanted, size):
        yield np.arange(first, min(first + size, wanted))
