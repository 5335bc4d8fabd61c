"""Types, ranges and lengths of the fields of the records that readers yield, each stated once.

`trainables.data.schema.validate` checks records against them, for training and for `data check`
alike. This module imports nothing heavy, because the layouts of the formats refer to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainables.models import Modality

Size: TypeAlias = Literal["words", "answers"]
"""A number of the data that bounds the values of a field: token ids or labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """What one field of a record may hold. Values that are not finite are never allowed."""

    dtype: str
    """Numpy's name of the type. Lists of Python numbers are converted to it later."""
    wider: str = ""
    """Name of a type with more digits that is allowed too; empty for none."""
    shape: tuple[int | str, ...]
    """Length of each axis. A name stands for a length that each record decides; fields of a record
    with the same name have the same length there."""
    shortest: int = 0
    """Smallest length of the first axis."""
    low: float | None = None
    """Smallest value."""
    high: float | None = None
    """Largest value."""
    below: Size | None = None
    """The size of the data that all values are below."""
    tolerance: float = 0.0
    """How far rounding may move a value past `low`, `high`, or the other column of a pair of
    `ascending`."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a field with two axes."""
    ascending: tuple[tuple[str, str], ...] = ()
    """Pairs of columns of which the second is never below the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSchema:
    """What the examples of a task hold; all formats of the task agree."""

    texts: int = 1
    """Texts per example; 0 for a task on images alone."""
    images: int = 1
    """Images per example."""
    labels: Field = Field(dtype="int32", shape=(0,))
    scores: Field = Field(dtype="float32", shape=(0,))


TOKENS = Field(dtype="int32", shape=("tokens",), shortest=1, low=0, below="words")
"""One text: token ids with [CLS] and [SEP]s."""
TOKEN_TYPES = Field(dtype="uint8", shape=("tokens",), low=0, high=255)

ONE_TEXT_ONE_IMAGE = ExampleSchema()
SOFT_TARGETS = ExampleSchema(
    labels=Field(dtype="int32", shape=("labels",), low=0, below="answers"),
    scores=Field(dtype="float32", shape=("labels",), low=0, high=1),
)
"""Any number of answers to one text, each with a score."""
PAIR_OF_IMAGES = ExampleSchema(
    images=2,
    labels=Field(dtype="int32", shape=(1,), low=0, below="answers"),
    scores=Field(dtype="float32", shape=(1,), low=0, high=1),
)
"""One answer to a text on two images."""

_BOX = ("x1", "y1", "x2", "y2", "w", "h", "area")
IMAGE_FIELDS: Mapping[Modality, Mapping[str, Field]] = {
    "regions": {
        "features": Field(
            dtype="float16", wider="float32", shape=("regions", "numbers"), shortest=1
        ),
        "boxes": Field(
            dtype="float32",
            shape=("regions", len(_BOX)),
            shortest=1,
            low=0,
            high=1,
            # Corners and sides that were rounded to float16 exceed their image by up to 0.001 of
            # its side, and areas by twice that.
            tolerance=0.0021,
            columns=_BOX,
            ascending=(("x1", "x2"), ("y1", "y2")),
        ),
        "classes": Field(dtype="float16", shape=("regions", "classes"), shortest=1, low=0, high=1),
    },
    "pixels": {
        "pixels": Field(dtype="uint8", shape=("height * width", 3), shortest=1),
        "size": Field(dtype="int32", shape=(2,), low=1),
    },
}
"""The fields of an image (`Regions` and `Pixels` of `trainables.data.schema.examples`). Boxes are
in shares of the image's sides; `classes` are the detector's probabilities, which only layouts with
`classes` have; the pixels are RGB, row after row, and `size` is height and width."""
