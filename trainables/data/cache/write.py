"""Write the Arrow files of a split: one of examples, one of the images that they name."""

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

from trainables.data.schema.records import Decode, ExampleRecord, ImageKey, ImageRecord, SplitName
from trainables.errors import DataError

BATCH_BYTES = 2**24
"""Size of a batch of images. A build has a few times this in memory."""
EXAMPLES_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "texts": pa.list_(pa.list_(pa.int32())),
        "token_types": pa.list_(pa.list_(pa.uint8())),
        "images": pa.list_(pa.int32()),
        "labels": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float32()),
    }
)

_EXAMPLES_PER_BATCH = 4096
_PENDING_PER_THREAD = 4
"""Images per thread that are being decoded, or wait to be written."""

_Result = TypeVar("_Result")


def examples_file(folder: Path, split: SplitName) -> Path:
    return folder / f"{split}.examples.arrow"


def images_file(folder: Path, split: SplitName) -> Path:
    return folder / f"{split}.images.arrow"


def write_examples(
    folder: Path, split: SplitName, records: Iterable[ExampleRecord]
) -> dict[ImageKey, int]:
    """Write the examples; return a number for each image that they name, in order of
    appearance."""
    numbers: dict[ImageKey, int] = {}
    records = iter(records)
    file = str(examples_file(folder, split))
    with pa.OSFile(file, "wb") as sink, pa.ipc.new_file(sink, EXAMPLES_SCHEMA) as writer:
        while block := list(islice(records, _EXAMPLES_PER_BATCH)):
            columns = {
                "key": [record.key for record in block],
                "texts": [record.texts for record in block],
                "token_types": [record.token_types for record in block],
                "images": [
                    [numbers.setdefault(key, len(numbers)) for key in record.images]
                    for record in block
                ],
                "labels": [record.labels for record in block],
                "scores": [record.scores for record in block],
            }
            arrays = [pa.array(columns[field.name], field.type) for field in EXAMPLES_SCHEMA]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=EXAMPLES_SCHEMA))
    return numbers


def write_images(
    folder: Path,
    split: SplitName,
    numbers: Mapping[ImageKey, int],
    images: Iterator[tuple[ImageKey, Decode]],
    source: str,
) -> None:
    """Write the images in the reader's order, each with its number from `write_examples`.

    Raises DataError, which names a file of `source`, if an image is missing or its arrays differ
    from the first image's in type or width.
    """
    written = np.zeros(len(numbers), bool)
    first_types: dict[str, tuple[object, ...]] = {}

    def checked() -> Iterator[tuple[int, ImageRecord]]:
        for key, image in decode_in_threads(images):
            written[numbers[key]] = True
            types = {field: (array.dtype, *array.shape[1:]) for field, array in image.items()}
            if not first_types:
                first_types.update(types)
            if types != first_types:
                first = _types_text(first_types)
                what = f"{_name_in_file(key)} is {_types_text(types)}, the first image is {first}"
                raise DataError(f"{source}/{key[0]}: {what}; give images of one kind")
            yield numbers[key], image

    batches = (_columns(block) for block in _blocks(checked()))
    with pa.OSFile(str(images_file(folder, split)), "wb") as sink:
        first_batch = next(batches, None)
        if first_batch is not None:
            with pa.ipc.new_file(sink, first_batch.schema) as writer:
                writer.write_batch(first_batch)
                for batch in batches:
                    writer.write_batch(batch)
    if not written.all():
        missing = next(key for key, number in numbers.items() if not written[number])
        where = f"{source}/{missing[0]}: holds no image {_name_in_file(missing)}"
        raise DataError(f"{where}, which an example names; complete the data")


def decode_in_threads(
    jobs: Iterator[tuple[ImageKey, Callable[[], _Result]]],
) -> Iterator[tuple[ImageKey, _Result]]:
    """Run the jobs in threads, a few at a time, and yield their results in the given order.
    Decoding, decompressing and resizing release the GIL."""
    threads = len(os.sched_getaffinity(0))
    pending: deque[tuple[ImageKey, Future[_Result]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for key, decode in jobs:
            pending.append((key, pool.submit(decode)))
            if len(pending) > _PENDING_PER_THREAD * threads:
                oldest, future = pending.popleft()
                yield oldest, future.result()
        while pending:
            oldest, future = pending.popleft()
            yield oldest, future.result()


def _blocks(images: Iterable[tuple[int, ImageRecord]]) -> Iterator[list[tuple[int, ImageRecord]]]:
    block: list[tuple[int, ImageRecord]] = []
    size = 0
    for numbered in images:
        block.append(numbered)
        size += sum(array.nbytes for array in numbered[1].values())
        if size >= BATCH_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _columns(block: list[tuple[int, ImageRecord]]) -> pa.RecordBatch:
    columns = {"number": pa.array([number for number, _ in block], pa.int32())}
    for field in block[0][1]:
        columns[field] = _rows([image[field] for _, image in block])
    return pa.RecordBatch.from_pydict(columns)


def _rows(arrays: list[NDArray[np.generic]]) -> pa.Array:
    """Turn arrays (length, *width) into a column of lists."""
    ends = np.cumsum([0, *(len(array) for array in arrays)], dtype=np.int32)
    flat = np.concatenate([array.ravel() for array in arrays])
    # pa.array would do the same, but imports pandas.
    dtype = pa.from_numpy_dtype(flat.dtype)
    values = pa.Array.from_buffers(dtype, len(flat), [None, pa.py_buffer(flat)])
    if arrays[0].ndim > 1:
        values = pa.FixedSizeListArray.from_arrays(values, arrays[0].shape[1])
    return pa.ListArray.from_arrays(pa.array(ends), values)


def _name_in_file(key: ImageKey) -> str:
    return " ".join(map(str, key[1:]))


def _types_text(types: Mapping[str, tuple[object, ...]]) -> str:
    return ", ".join(f"{field} {' '.join(map(str, each))}" for field, each in types.items())
