"""What the readers of the published formats yield, before it is written to the cache.

`trainables.data.schema.fields` states the type, the range and the length of each field.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from numpy.typing import NDArray

from trainables.data.schema.examples import VocabularyInfo

SplitName: TypeAlias = Literal["train", "held_out"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out")

ImageKey: TypeAlias = tuple[str | int, ...]
"""The file that holds the image, and its index or name in that file."""
ImageRecord: TypeAlias = Mapping[str, NDArray[Any]]
"""The arrays of an image: those of its modality in `trainables.data.schema.fields.IMAGE_FIELDS`."""
Decode: TypeAlias = Callable[[], ImageRecord]
"""May be called from any thread; raises DataError if the image is damaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleRecord:
    """One example; the fields are those of `trainables.data.schema.examples.Split`."""

    key: str
    """Id from the published data."""
    file: str
    """Path below the data folder of the file that holds it, for messages."""
    texts: Sequence[Sequence[int]]
    images: tuple[ImageKey, ...]
    labels: Sequence[int] = ()
    scores: Sequence[float] = ()
    token_types: Sequence[Sequence[int]] = ()


class Reader(ABC):
    """Reads the published files of one task. All methods raise DataError if a file is damaged.

    A reader converts what the files hold. It need not check types, lengths and ranges, which
    `CheckedReader` does for all readers, except of what it uses itself, such as an index.
    """

    @abstractmethod
    def vocabulary(self) -> VocabularyInfo:
        """Return the vocabulary of the texts; one of size 0 if the examples have no texts."""

    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """Return the names of the labels in their order; empty if they have no names."""

    @abstractmethod
    def records(self, split: SplitName) -> Iterator[ExampleRecord]:
        """Yield the examples one at a time, in the order of the files."""

    @abstractmethod
    def images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        """Yield each image in `wanted` once; the reader chooses the order."""

    def sample_images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        """Yield some images of the split, which planning decodes to see that they can be: by
        default those in `wanted`. A reader that would search a file for them yields others."""
        yield from self.images(split, wanted)

    def findings(self, progress: Callable[[str, int], None]) -> Iterator[str]:
        """Yield a line for each contradiction between files that reading the examples and images
        does not meet. `data check` shows them. By default there are none.

        `progress` takes what is being read, and the number of entries read so far.
        """
        yield from ()

    def close(self) -> None:  # noqa: B027
        """Close what is open. By default, nothing stays open."""
