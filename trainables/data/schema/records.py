"""What the readers of the published formats give, before it is laid out for training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from numpy.typing import NDArray

from trainables.data.schema.examples import Vocabulary

SplitName: TypeAlias = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")

ImageName: TypeAlias = tuple[str | int, ...]
"""The file it lies in, and its place or name there."""
Image: TypeAlias = Mapping[str, NDArray[Any]]
"""Regions: `features` (n, D) and `boxes` (n, 7), `classes` (n, C) where the task needs them.
Pixels: `pixels` (height * width, 3) uint8 and `size` (height, width)."""
Decode: TypeAlias = Callable[[], Image]
"""Called in any thread; DataError if the image is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One example; `trainables.data.schema.examples.Split` says what the fields mean."""

    key: str
    texts: Sequence[Sequence[int]]
    images: tuple[ImageName, ...]
    labels: Sequence[int] = ()
    scores: Sequence[float] = ()
    kinds: Sequence[Sequence[int]] = ()


class Reader(Protocol):
    """The published files of one task. Everything raises DataError where a file is damaged."""

    def vocabulary(self) -> Vocabulary: ...

    def answers(self) -> tuple[str, ...]: ...

    def records(self, split: SplitName) -> Iterator[Record]:
        """In the files' order, one at a time."""

    def images(
        self, split: SplitName, wanted: Collection[ImageName]
    ) -> Iterator[tuple[ImageName, Decode]]:
        """Those that are `wanted`, each once, in an order of the reader's own."""

    def close(self) -> None: ...
