"""The Arrow files of a split: one of examples, one of the images that they name."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainables.data.schema.records import Decode, Image, ImageName, Record, SplitName
from trainables.errors import DataError

BATCH_BYTES = 2**24
"""Images are written when so many bytes have gathered: what a build holds of them in memory, a few
times over."""
EXAMPLES = pa.schema(
    {
        "key": pa.string(),
        "texts": pa.list_(pa.list_(pa.int32())),
        "kinds": pa.list_(pa.list_(pa.uint8())),
        "images": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float32()),
    }
)

_EXAMPLES_AT_A_TIME = 4096
_WAITING = 4
"""Images per worker that are being decoded, or wait to be written."""


Result = TypeVar("Result")


def examples_file(folder: Path, split: SplitName) -> Path:
    return folder / f"{split}.examples.arrow"


def images_file(folder: Path, split: SplitName) -> Path:
    return folder / f"{split}.images.arrow"


def write_examples(
    folder: Path, split: SplitName, records: Iterable[Record]
) -> dict[ImageName, int]:
    """The images that the examples name, numbered in order of appearance."""
    numbers: dict[ImageName, int] = {}
    records = iter(records)
    file = str(examples_file(folder, split))
    with pa.OSFile(file, "wb") as sink, pa.ipc.new_file(sink, EXAMPLES) as writer:
        while block := list(islice(records, _EXAMPLES_AT_A_TIME)):
            columns = {
                "key": [record.key for record in block],
                "texts": [record.texts for record in block],
                "kinds": [record.kinds for record in block],
                "images": [
                    [numbers.setdefault(name, len(numbers)) for name in record.images]
                    for record in block
                ],
                "labels": [record.labels for record in block],
                "scores": [record.scores for record in block],
            }
            arrays = [pa.array(columns[field.name], field.type) for field in EXAMPLES]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=EXAMPLES))
    return numbers


def write_images(
    folder: Path,
    split: SplitName,
    numbers: Mapping[ImageName, int],
    images: Iterator[tuple[ImageName, Decode]],
    source: Path,
) -> None:
    """In the reader's order, each with its number; DataError, which names a file below `source`,
    if one is missing or has other widths than the first."""
    found = np.zeros(len(numbers), bool)
    form: dict[str, tuple[object, ...]] = {}

    def checked() -> Iterator[tuple[int, Image]]:
        for name, image in decoded(images):
            found[numbers[name]] = True
            its = {field: (array.dtype, *array.shape[1:]) for field, array in image.items()}
            if (form or form.update(its) or form) != its:
                what = f"{_place(name)} is {_shown(its)}, the first image is {_shown(form)}"
                raise DataError(f"{source / str(name[0])}: {what}; give images of one kind")
            yield numbers[name], image

    batches = (_columns(block) for block in _blocks(checked()))
    with pa.OSFile(str(images_file(folder, split)), "wb") as sink:
        first = next(batches, None)
        if first is not None:
            with pa.ipc.new_file(sink, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
    if not found.all():
        missing = next(name for name, number in numbers.items() if not found[number])
        where = f"{source / str(missing[0])}: holds no image {_place(missing)}"
        raise DataError(f"{where}, which an example names; complete the data")


def decoded(
    jobs: Iterator[tuple[ImageName, Callable[[], Result]]],
) -> Iterator[tuple[ImageName, Result]]:
    """In the order given, a few at a time in threads: decoding, inflating and resizing release the
    interpreter."""
    workers = len(os.sched_getaffinity(0))
    waiting: deque[tuple[ImageName, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for name, decode in jobs:
            waiting.append((name, pool.submit(decode)))
            if len(waiting) > _WAITING * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def _blocks(images: Iterable[tuple[int, Image]]) -> Iterator[list[tuple[int, Image]]]:
    block: list[tuple[int, Image]] = []
    size = 0
    for numbered in images:
        block.append(numbered)
        size += sum(array.nbytes for array in numbered[1].values())
        if size >= BATCH_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _columns(block: list[tuple[int, Image]]) -> pa.RecordBatch:
    columns = {"number": pa.array([number for number, _ in block], pa.int32())}
    for field in block[0][1]:
        columns[field] = _rows([image[field] for _, image in block])
    return pa.RecordBatch.from_pydict(columns)


def _rows(arrays: list[NDArray[np.generic]]) -> pa.Array:
    """Arrays (length, *width) as a column of lists."""
    ends = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
    flat = np.concatenate([array.ravel() for array in arrays])
    # pa.array would do the same and import pandas for it.
    kind = pa.from_numpy_dtype(flat.dtype)
    values = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])
    if arrays[0].ndim > 1:
        values = pa.FixedSizeListArray.from_arrays(values, arrays[0].shape[1])
    return pa.ListArray.from_arrays(pa.array(ends), values)


def _place(name: ImageName) -> str:
    return " ".join(map(str, name[1:]))


def _shown(form: Mapping[str, tuple[object, ...]]) -> str:
    return ", ".join(f"{field} {' '.join(map(str, its))}" for field, its in form.items())
