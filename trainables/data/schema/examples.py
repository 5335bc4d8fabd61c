"""Examples as every reader gives them and every task takes them, whatever file they came from.

Rows of different length lie end to end in chunks that may be views of a memory-mapped file, so a
process holds the batch it works on and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ragged:
    """N rows; row i is an array (length_i, *width). Chunk c holds the rows of `values[c]` between
    `offsets[c][k]` and `offsets[c][k + 1]`."""

    values: Sequence[NDArray[Any]]
    offsets: Sequence[NDArray[Any]]
    bounds: NDArray[np.int64]
    """(chunks + 1,): number of the first row of each chunk, and N."""

    @classmethod
    def over(cls, values: Sequence[NDArray[Any]], offsets: Sequence[NDArray[Any]]) -> Ragged:
        """At least one chunk, of any number of rows."""
        counts = [len(each) - 1 for each in offsets]
        return cls(values, offsets, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @classmethod
    def of(cls, rows: Iterable[Any], dtype: Any, width: tuple[int, ...] = ()) -> Ragged:
        """From rows in memory."""
        arrays = [np.asarray(row, dtype).reshape(-1, *width) for row in rows]
        lengths = [len(array) for array in arrays]
        flat = np.concatenate([np.zeros((0, *width), dtype), *arrays])
        return cls.over([flat], [np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    @property
    def width(self) -> tuple[int, ...]:
        return tuple(self.values[0].shape[1:])

    def lengths(self) -> NDArray[np.int64]:
        """(N,)"""
        return np.concatenate([np.diff(each) for each in self.offsets]).astype(np.int64)

    def rows(self, wanted: NDArray[Any]) -> list[NDArray[Any]]:
        """Views of the rows numbered in `wanted` (B,)."""
        chunk = np.searchsorted(self.bounds, wanted, side="right") - 1
        local = wanted - self.bounds[chunk]
        found = []
        for c, k in zip(chunk.tolist(), local.tolist(), strict=True):
            ends = self.offsets[c]
            found.append(self.values[c][ends[k] : ends[k + 1]])
        return found

    def padded(self, wanted: NDArray[Any], dtype: Any = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """(B, longest, *width), zero past each row's end, and the lengths (B,) int64."""
        rows = self.rows(wanted)
        lengths = np.array([len(row) for row in rows], np.int64)
        kind = self.values[0].dtype if dtype is None else dtype
        out = np.zeros((len(rows), int(lengths.max(initial=0)), *self.width), kind)
        for place, row in enumerate(rows):
            out[place, : len(row)] = row
        return out, lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """M images as a detector saw them; all Ragged of M rows."""

    features: Ragged
    """(regions, D) float16."""
    boxes: Ragged
    """(regions, 7) float32: x1, y1, x2, y2, w, h, each over the image's side, and w * h."""
    classes: Ragged | None = None
    """(regions, C) float16: the detector's probabilities, class 0 the background, where kept."""

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """M images, resized for the model and padded to nothing."""

    pixels: Ragged
    """(height * width, 3) uint8, rows of the image one after another."""
    sizes: NDArray[np.int32]
    """(M, 2): height, width."""

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """E examples. A task knows how many texts and images its examples have and what `labels` mean;
    every reader of that task gives the same."""

    keys: Sequence[str]
    """(E,) ids of the published data, such as question ids."""
    texts: Ragged
    """int32 token ids with [CLS] and [SEP]s; example e has the rows e * P to e * P + P - 1, where P
    is the same for all."""
    kinds: Ragged | None = None
    """Token types, uint8, row for row as `texts`; None where all are 0."""
    images: NDArray[np.int32]
    """(E, I): rows of `seen`."""
    labels: Ragged
    """int32, E rows."""
    scores: Ragged
    """float32, E rows: of soft targets, the score of each label; elsewhere what the task says."""
    seen: Regions | Pixels

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Ids of WordPiece's special tokens, and the range [first, size) of ordinary words."""

    pad: int
    cls: int
    sep: int
    mask: int
    unknown: int
    first: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What a task trains on and is scored on."""

    train: Split
    held_out: Split
    answers: tuple[str, ...]
    """Names of the labels in this data's own order: official dumps of the same 3,129 VQA answers
    agree in one index only. Empty where labels have no names."""
    vocabulary: Vocabulary
