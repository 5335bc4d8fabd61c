"""A split out of its Arrow files, as views of the mapped files."""

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
class Keys(Sequence[str]):
    """Strings that stay in the file until they are asked for."""

    chunks: tuple[pa.StringArray, ...]
    bounds: tuple[int, ...]
    """Number of the first of each chunk, and of all."""

    def __len__(self) -> int:
        return self.bounds[-1]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        chunk = bisect_right(self.bounds, place) - 1
        return str(self.chunks[chunk][place - self.bounds[chunk]])

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks:
            yield from chunk.to_pylist()


def read_split(folder: Path, split: SplitName) -> Split:
    """Raises OSError, ValueError, KeyError or pyarrow's errors if the files are not whole."""
    batches = _batches(examples_file(folder, split))
    images = _batches(images_file(folder, split))
    number = np.concatenate([_plain(batch["number"]) for batch in images])
    places = np.empty(len(number), np.int32)
    places[number] = np.arange(len(number), dtype=np.int32)
    named = [_flat(batch["images"]).reshape(len(batch), -1) for batch in batches]
    kinds = _ragged([batch["kinds"].values for batch in batches])
    keys = tuple(batch["key"] for batch in batches)
    return Split(
        keys=Keys(keys, tuple(np.cumsum([0, *map(len, keys)]).tolist())),
        texts=_ragged([batch["texts"].values for batch in batches]),
        kinds=kinds if len(kinds) else None,
        images=places[np.concatenate(named)],
        labels=_ragged([batch["labels"] for batch in batches]),
        scores=_ragged([batch["scores"] for batch in batches]),
        seen=_seen(images),
    )


def _batches(file: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(file)))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _seen(batches: list[pa.RecordBatch]) -> Regions | Pixels:
    found = {
        name: _ragged([batch[name] for batch in batches])
        for name in batches[0].schema.names
        if name not in ("number", "size")
    }
    if "pixels" in found:
        sizes = [_flat(batch["size"]).reshape(-1, 2) for batch in batches]
        return Pixels(pixels=found["pixels"], sizes=np.concatenate(sizes))
    return Regions(**found)


def _ragged(columns: list[pa.ListArray]) -> Ragged:
    return Ragged.over(
        [_flat(column) for column in columns], [_plain(column.offsets) for column in columns]
    )


def _flat(column: pa.ListArray) -> NDArray[Any]:
    """(values, *width) of all rows, without a copy."""
    values = column.values
    if pa.types.is_fixed_size_list(values.type):
        return _plain(values.values).reshape(-1, values.type.list_size)
    return _plain(values)


def _plain(array: pa.Array) -> NDArray[Any]:
    """As `to_numpy` does, which imports pandas first (0.3 s)."""
    dtype = _DTYPES[array.type]
    if not len(array):
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)
