"""The contract of data formats."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from trainables.data.check import check_folder
from trainables.data.formats import FORMATS, task_files
from trainables.data.open import load_data
from trainables.data.reference import LocalData
from trainables.data.schema.examples import Data
from trainables.spec import TaskSpec

IMAGE_SIZE, PATCH_SIZE = 32, 8
"""Of the model for which a format of pixels is opened."""


def check_format_contract(name: str, task: str, folder: Path) -> None:
    """Check a format of `FORMATS` with small published files of a task below `folder`.

    `sweepstakes data check` finds the files and no fault in them. The reader yields as many
    examples as it counts, and the cache returns what the reader has read.
    """
    entry = FORMATS[name]
    assert task in entry.layouts, f"{name} has no layout for {task}"
    result = check_folder(folder)
    assert not result.findings, f"`data check` finds: {result.findings[0]}"
    counts = [each for each in result.counts if (each.task, each.format) == (task, name)]
    assert counts, f"`data check` finds no files of {task} in the format {name}"
    reference = LocalData(folder)
    files = task_files(task, name, {})
    spec = TaskSpec(name=task, data=reference.fingerprint(files), format=name)
    pixels = entry.modality == "pixels"
    image_size, patch_size = (IMAGE_SIZE, PATCH_SIZE) if pixels else (0, 0)
    with TemporaryDirectory() as cache:
        # The second one is read from the files in `cache`.
        read, cached = (
            load_data(
                reference, Path(cache), spec, name, image_size=image_size, patch_size=patch_size
            )
            for _ in range(2)
        )
        _check_equal(read, cached)
        examples = {len(split.keys) for split in (read.train, read.held_out)}
    assert examples <= {each.examples for each in counts}, (
        f"the reader yields {sorted(examples)} examples, `data check` counts {counts}"
    )


def _check_equal(read: Data, cached: Data) -> None:
    for split in ("train", "held_out"):
        first, second = getattr(read, split), getattr(cached, split)
        assert list(first.keys) == list(second.keys), f"{split}: the cache has other examples"
        assert np.array_equal(first.images, second.images), f"{split}: the cache has other images"
        for field in ("texts", "labels", "scores"):
            assert np.array_equal(getattr(first, field).values, getattr(second, field).values), (
                f"{split}: the cache has other {field}"
            )
