"""Examples in the form that all readers produce and all tasks consume, whatever their format.

Rows of different lengths are stored end to end, in chunks that may be views of a memory-mapped
file: a process keeps only its current batch in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """N rows; row i is an array (length_i, *width). Row k of chunk c is `values[c]` from
    `offsets[c][k]` to `offsets[c][k + 1]`."""

    values: Sequence[NDArray[Any]]
    offsets: Sequence[NDArray[Any]]
    bounds: NDArray[np.int64]
    """(chunks + 1,): number of the first row of each chunk, and N."""

    @classmethod
    def from_chunks(cls, values: Sequence[NDArray[Any]], offsets: Sequence[NDArray[Any]]) -> Ragged:
        """Take one or more chunks, each with any number of rows."""
        counts = [len(ends) - 1 for ends in offsets]
        return cls(values, offsets, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @classmethod
    def from_rows(cls, rows: Iterable[Any], dtype: Any, width: tuple[int, ...] = ()) -> Ragged:
        """Copy rows from memory into one chunk."""
        arrays = [np.asarray(row, dtype).reshape(-1, *width) for row in rows]
        lengths = [len(array) for array in arrays]
        flat = np.concatenate([np.zeros((0, *width), dtype), *arrays])
        return cls.from_chunks([flat], [np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def width(self) -> tuple[int, ...]:
        """Shape of one entry of a row; empty for numbers."""
        return tuple(self.values[0].shape[1:])

    def lengths(self) -> NDArray[np.int64]:
        """Return the lengths of all rows (N,)."""
        return np.concatenate([np.diff(ends) for ends in self.offsets]).astype(np.int64)

    def rows(self, index: NDArray[Any]) -> list[NDArray[Any]]:
        """Return views of the rows numbered in `index` (B,)."""
        chunk = np.searchsorted(self.bounds, index, side="right") - 1
        local = index - self.bounds[chunk]
        views = []
        for c, k in zip(chunk.tolist(), local.tolist(), strict=True):
            ends = self.offsets[c]
            views.append(self.values[c][ends[k] : ends[k + 1]])
        return views

    def padded(self, index: NDArray[Any], dtype: Any = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the rows as (B, longest, *width), padded with zeros, and their lengths (B,)
        int64."""
        rows = self.rows(index)
        lengths = np.array([len(row) for row in rows], np.int64)
        dtype = self.values[0].dtype if dtype is None else dtype
        out = np.zeros((len(rows), int(lengths.max(initial=0)), *self.width), dtype)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return out, lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """Detected regions of M images; each field has M rows."""

    features: Ragged
    """(regions, D) float16 or float32."""
    boxes: Ragged
    """(regions, 7) float32: x1, y1, x2, y2, w, h, each over the image's side, and w * h."""
    classes: Ragged | None = None
    """(regions, C) float16: the detector's probabilities, class 0 the background; None if the data
    do not have them."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """M images, resized for the model and not padded."""

    pixels: Ragged
    """(height * width, 3) uint8, rows of the image one after another."""
    sizes: NDArray[np.int32]
    """(M, 2): height, width."""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """E examples. The task determines how many texts and images an example has and what `labels`
    mean; all readers of that task agree."""

    keys: Sequence[str]
    """(E,) ids from the published data, such as question ids."""
    texts: Ragged
    """int32 token ids with [CLS] and [SEP]s. With P texts per example, example e has the rows
    e * P to e * P + P - 1."""
    token_types: Ragged | None = None
    """uint8, one row for each row of `texts`; None if all are 0."""
    images: NDArray[np.int32]
    """(E, I): the I images of each example, as rows of `image_data`."""
    labels: Ragged
    """int32, E rows. The task defines their meaning and length."""
    scores: Ragged
    """float32, E rows: with soft targets the score of each label, else defined by the task."""
    image_data: Regions | Pixels

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyInfo:
    """Ids of WordPiece's special tokens; ordinary words have the ids [first, size)."""

    pad: int
    cls: int
    sep: int
    mask: int
    unknown: int
    first: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """The two splits of a task: what it trains on and what it is evaluated on."""

    train: Split
    held_out: Split
    answers: tuple[str, ...]
    """Names of the labels, in the order of this data: the official dumps of the same 3,129 VQA
    answers agree in one index only. Empty if the labels have no names."""
    vocabulary: VocabularyInfo
