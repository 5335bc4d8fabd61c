"""What the headers and first entries of data and weights files tell, without reading the rest.

Planning calls these functions when it meets a file for the first time, so that a trial does not
find minutes or hours later what is known at once. They are the readers and loaders of the trials
themselves, so that they refuse the same files with the same words. They import torch, numpy and the
libraries of the formats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from trainables.data.formats import FORMATS, Layout
from trainables.data.open import make_reader
from trainables.data.schema.layouts import SplitFiles
from trainables.data.schema.records import SPLITS, Reader, SplitName
from trainables.data.sizes import DataSizes
from trainables.errors import CheckpointError, DataError, TrainableError, describe_error
from trainables.models import MODELS
from trainables.spec import ModelSpec

_T = TypeVar("_T")
_IMAGE_SIZE = 32
"""Side in pixels to which a decoded image is resized."""


def read_data_sizes(root: Path, file_format: str, layout: Layout) -> DataSizes:
    """Read the vocabulary, the answers, and of each file the first example with its images.

    `layout` is resolved. Raises DataError if a file is missing, or damaged in what is read, or if
    a split has no example.
    """
    return _one_line(root, lambda: _read_data_sizes(root, file_format, layout))


def check_weights(model: ModelSpec, path: Path, *, fill: bool) -> None:
    """Raise CheckpointError unless the names and shapes of a weights file fit the model; with
    `fill` some may be missing. The values of the weights are not kept.

    Without torch nothing is checked.
    """
    try:
        import torch
    except ImportError:
        return
    module = import_module(MODELS[model.architecture].module)
    with torch.device("meta"):  # tensors without values
        state = module.build(model, dropout=0.0).state_dict() if fill else None
        try:
            module.load(path, model, fill=state)
        except TrainableError:
            raise
        except Exception as error:
            # A loader from outside may need values; what it says of tensors without them is wrong.
            if not MODELS.source_of(model.architecture):
                raise CheckpointError(
                    f"{path}: {describe_error(error)} while it was read; give a checkpoint of the"
                    " model"
                ) from error


def _read_data_sizes(root: Path, file_format: str, layout: Layout) -> DataSizes:
    def reader_of(part: Layout) -> Reader:
        size = _IMAGE_SIZE if FORMATS[file_format].modality == "pixels" else 0
        return make_reader(root, file_format, part, size, size)

    reader = reader_of(layout)
    try:
        words = reader.vocabulary().size + layout.extra_words
        reader.answers()
    finally:
        reader.close()
    longest, dims = 0, set[int]()
    for split in SPLITS:
        examples = 0
        for files in layout.train if split == "train" else layout.held_out:
            reader = reader_of(_only(layout, split, files))
            try:
                text, widths = _read_first(reader, split)
            finally:
                reader.close()
            examples += bool(widths)
            longest, dims = max(longest, text), dims | widths
        if not examples:
            raise DataError(f"{root}: holds no {split} example; complete the data")
    return DataSizes(words=words, longest_text=longest, region_dims=tuple(sorted(dims)))


def _read_first(reader: Reader, split: SplitName) -> tuple[int, set[int]]:
    """Return the length of the longest text of the first example, and the numbers of features of
    the regions in its images; no numbers if there is no example."""
    record = next(reader.records(split), None)
    if record is None:
        return 0, set()
    widths, wanted = set(), dict.fromkeys(record.images)
    for _, (_, decode) in zip(wanted, reader.sample_images(split, wanted), strict=False):
        image = decode()
        widths.add(image["features"].shape[1] if "features" in image else 0)
    return max(map(len, record.texts), default=0), widths or {0}


def _only(layout: Layout, split: SplitName, files: SplitFiles) -> Layout:
    """Return a layout with only these files of one split."""
    train, held_out = ((files,), ()) if split == "train" else ((), (files,))
    return replace(layout, train=train, held_out=held_out)


def _one_line(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except TrainableError:
        raise
    except Exception as error:
        raise DataError(
            f"{path}: {describe_error(error)} while its first entries were read;"
            " `sweepstakes data check` reads all of them"
        ) from error
