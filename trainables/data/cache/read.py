"""Read a split from its Arrow files, as views of the mapped files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainables.data.cache.write import examples_file, images_file
from trainables.data.schema.examples import Pixels, Ragged, Regions, Split
from trainables.data.schema.records import SplitName

_DTYPES = {pa.from_numpy_dtype(name): np.dtype(name) for name in ("f2", "f4", "u1", "i4")}


@dataclass(frozen=True, slots=True)
class LazyStrings(Sequence[str]):
    """A sequence of strings that are read from the file on access."""

    chunks: tuple[pa.StringArray, ...]
    bounds: tuple[int, ...]
    """Index of the first string of each chunk, and the number of strings."""

    def __len__(self) -> int:
        return self.bounds[-1]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        chunk = bisect_right(self.bounds, position) - 1
        return str(self.chunks[chunk][position - self.bounds[chunk]])

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks:
            yield from chunk.to_pylist()


def read_split(folder: Path, split: SplitName) -> Split:
    """Map a split. Raises OSError, ValueError, KeyError or a pyarrow error if the files are not
    complete."""
    batches = _batches(examples_file(folder, split))
    images = _batches(images_file(folder, split))
    # Examples refer to images by number; the images are stored in the order of the reader.
    numbers = np.concatenate([_as_numpy(batch["number"]) for batch in images])
    rows = np.empty(len(numbers), np.int32)
    rows[numbers] = np.arange(len(numbers), dtype=np.int32)
    image_numbers = [_flat(batch["images"]).reshape(len(batch), -1) for batch in batches]
    token_types = _ragged([batch["token_types"].values for batch in batches])
    keys = tuple(batch["key"] for batch in batches)
    return Split(
        keys=LazyStrings(keys, tuple(np.cumsum([0, *map(len, keys)]).tolist())),
        texts=_ragged([batch["texts"].values for batch in batches]),
        token_types=token_types if len(token_types) else None,
        images=rows[np.concatenate(image_numbers)],
        labels=_ragged([batch["labels"] for batch in batches]),
        scores=_ragged([batch["scores"] for batch in batches]),
        image_data=_image_data(images),
    )


def _batches(file: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    return [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _image_data(batches: list[pa.RecordBatch]) -> Regions | Pixels:
    fields = {
        name: _ragged([batch[name] for batch in batches])
        for name in batches[0].schema.names
        if name not in ("number", "size")
    }
    if "pixels" in fields:
        sizes = [_flat(batch["size"]).reshape(-1, 2) for batch in batches]
        return Pixels(pixels=fields["pixels"], sizes=np.concatenate(sizes))
    return Regions(**fields)


def _ragged(columns: list[pa.ListArray]) -> Ragged:
    return Ragged.from_chunks(
        [_flat(column) for column in columns], [_as_numpy(column.offsets) for column in columns]
    )


def _flat(column: pa.ListArray) -> NDArray[Any]:
    """Return the values of all rows as (values, *width), without a copy."""
    values = column.values
    if pa.types.is_fixed_size_list(values.type):
        return _as_numpy(values.values).reshape(-1, values.type.list_size)
    return _as_numpy(values)


def _as_numpy(array: pa.Array) -> NDArray[Any]:
    """Do what `to_numpy` does without importing pandas (0.3 s)."""
    dtype = _DTYPES[array.type]
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
