"""What the readers of the published formats yield, before it is written to the cache."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from trainables.data.schema.examples import VocabularyInfo

SplitName: TypeAlias = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")

ImageKey: TypeAlias = tuple[str | int, ...]
"""The file that holds the image, and its index or name in that file."""
ImageRecord: TypeAlias = Mapping[str, NDArray[Any]]
"""Regions: `features` (n, D) and `boxes` (n, 7), and `classes` (n, C) if the task needs them.
Pixels: `pixels` (height * width, 3) uint8 and `size` (height, width)."""
Decode: TypeAlias = Callable[[], ImageRecord]
"""May be called from any thread; raises DataError if the image is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleRecord:
    """One example; the fields are those of `trainables.data.schema.examples.Split`."""

    key: str
    """Id from the published data."""
    texts: Sequence[Sequence[int]]
    images: tuple[ImageKey, ...]
    labels: Sequence[int] = ()
    scores: Sequence[float] = ()
    token_types: Sequence[Sequence[int]] = ()


class Reader(Protocol):
    """Reads the published files of one task. All methods raise DataError if a file is damaged."""

    def vocabulary(self) -> VocabularyInfo: ...

    def answers(self) -> tuple[str, ...]:
        """Return the names of the labels in their order; empty if they have no names."""

    def records(self, split: SplitName) -> Iterator[ExampleRecord]:
        """Yield the examples one at a time, in the order of the files."""

    def images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        """Yield each image in `wanted` once; the reader chooses the order."""

    def close(self) -> None: ...
