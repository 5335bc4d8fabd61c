"""Check the records that a reader yields against their fields.

`CheckedReader` does it for every format, whoever wrote the reader: a value of another type or
length, or out of its range, is an error that names the file, the entry and the field, never a wrong
score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.schema.examples import VocabularyInfo
from trainables.data.schema.fields import (
    IMAGE_FIELDS,
    TOKEN_TYPES,
    TOKENS,
    ExampleSchema,
    Field,
)
from trainables.data.schema.layouts import Layout
from trainables.data.schema.records import (
    Decode,
    ExampleRecord,
    ImageKey,
    ImageRecord,
    Reader,
    SplitName,
)
from trainables.errors import DataError
from trainables.models import Modality

ADVICE = "download or write this file again"
_MAX_INT = 2**31 - 1
"""Largest integer that the cache can hold (int32)."""


class CheckedReader(Reader):
    """Yields what another reader yields, each record after it has been checked, and region features
    in the number format `region_features` (see `trainables.spec.Recipe`)."""

    def __init__(
        self,
        reader: Reader,
        root: Path,
        layout: Layout,
        modality: Modality,
        region_features: str = "float16",
    ) -> None:
        self._reader = reader
        self._region_features = region_features
        self._root = root
        self._layout = layout
        self._fields = {
            name: field
            for name, field in IMAGE_FIELDS[modality].items()
            if name != "classes" or layout.classes
        }

    def vocabulary(self) -> VocabularyInfo:
        return self._vocabulary

    def answers(self) -> tuple[str, ...]:
        return self._answers

    def records(self, split: SplitName) -> Iterator[ExampleRecord]:
        words = self._vocabulary.size + self._layout.extra_words
        sizes = {"words": words, "answers": len(self._answers)}
        for record in self._reader.records(split):
            if problem := example_problem(self._layout.example, record, sizes):
                where = f"{self._root / record.file}: record {record.key}"
                raise DataError(f"{where}: {problem}; {ADVICE}")
            yield record

    def images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        for key, decode in self._reader.images(split, wanted):
            yield key, partial(self._decode, key, decode)

    def sample_images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        for key, decode in self._reader.sample_images(split, wanted):
            yield key, partial(self._decode, key, decode)

    def findings(self, progress: Callable[[str, int], None]) -> Iterator[str]:
        yield from self._reader.findings(progress)

    def close(self) -> None:
        self._reader.close()

    def _decode(self, key: ImageKey, decode: Decode) -> ImageRecord:
        image = self._with_features(decode())
        if problem := image_problem(self._fields, image):
            where = f"{self._root / str(key[0])}: image {' '.join(map(str, key[1:]))}"
            raise DataError(f"{where}: {problem}; {ADVICE}")
        return image

    def _with_features(self, image: ImageRecord) -> ImageRecord:
        features = image.get("features")
        if not isinstance(features, np.ndarray) or features.dtype.kind != "f":
            return image
        if features.dtype.itemsize <= np.dtype(self._region_features).itemsize:
            return image  # what a file rounded, needs no more digits
        with np.errstate(over="ignore"):  # the check refuses what is too large
            return {**image, "features": features.astype(self._region_features)}

    @cached_property
    def _vocabulary(self) -> VocabularyInfo:
        return self._reader.vocabulary()

    @cached_property
    def _answers(self) -> tuple[str, ...]:
        return self._reader.answers()


def example_problem(schema: ExampleSchema, record: ExampleRecord, sizes: Mapping[str, int]) -> str:
    """Return what is wrong with an example, such as `labels: 9 is not an integer from 0 to 3`;
    empty if nothing is. `sizes` has the values of `trainables.data.schema.fields.Size`."""
    if len(record.texts) != schema.texts:
        return f"texts: {len(record.texts)} of them, not {schema.texts}"
    if len(record.images) != schema.images:
        return f"images: {len(record.images)} of them, not {schema.images}"
    if record.token_types and len(record.token_types) != len(record.texts):
        return f"token_types: {len(record.token_types)} of them for {len(record.texts)} texts"
    for number, text in enumerate(record.texts):
        lengths: dict[str, int] = {}
        problem = _list_problem("texts", TOKENS, text, sizes, lengths)
        if not problem and record.token_types:
            types = record.token_types[number]
            problem = _list_problem("token_types", TOKEN_TYPES, types, sizes, lengths)
        if problem:
            return problem
    lengths = {}
    return _list_problem("labels", schema.labels, record.labels, sizes, lengths) or _list_problem(
        "scores", schema.scores, record.scores, sizes, lengths
    )


def image_problem(fields: Mapping[str, Field], image: ImageRecord) -> str:
    """Return what is wrong with an image, such as `boxes: 1.2 is not a number from 0 to 1`; empty
    if nothing is."""
    if image.keys() != fields.keys():
        return f"fields: {', '.join(image)}, not {', '.join(fields)}"
    lengths: dict[str, int] = {}
    for name, field in fields.items():
        if problem := _array_problem(name, field, image[name], lengths):
            return problem
    if "size" in image and image["size"].prod() != len(image["pixels"]):
        height, width = image["size"].tolist()
        return f"pixels: {len(image['pixels'])} of them, not {height} rows of {width}"
    return ""


def _array_problem(name: str, field: Field, array: NDArray[Any], lengths: dict[str, int]) -> str:
    if array.dtype.name not in (field.dtype, field.wider):
        return f"{name}: numbers of type {array.dtype}, not {field.dtype}"
    if problem := _shape_problem(name, field, array.shape, lengths):
        return problem
    bounded = field.low is not None or field.high is not None
    if not array.size or not (bounded or array.dtype.kind == "f"):
        return ""
    if array.dtype == np.float16 and not field.ascending and _float16_fits(field, array):
        return ""
    low, high = array.min(), array.max()  # a NaN anywhere makes both NaN
    if not np.isfinite(low) or not np.isfinite(high):
        return f"{name}: values that are not finite"
    bounds = _bounds(field, None)
    for value in (low, high):
        if not bounds.hold_range(value, value):
            return f"{name}: {value:.4g} is not {bounds}"
    for first, second in field.ascending:
        before, after = (array[:, field.columns.index(each)] for each in (first, second))
        if (after < before - field.tolerance).any():
            return f"{name}: {second} is below {first} in a row"
    return ""


def _float16_fits(field: Field, array: NDArray[Any]) -> bool:
    """Return whether all values are certainly allowed.

    Numpy has no vector instructions for float16: `isfinite` of 50 regions with 2,048 numbers takes
    200 us, the same from their bits 10 us. Without the sign, bits are in the order of the values,
    up to infinity, 0x7C00, and the NaNs.
    """
    bits = array.view(np.uint16)
    if field.low is None and field.high is None:
        return bool((bits & 0x7FFF).max() < 0x7C00)
    # With the sign, a negative number is above all others.
    return field.low == 0 and bool(bits.max() <= np.float16(field.high or 0).view(np.uint16))


def _list_problem(
    name: str,
    field: Field,
    values: Sequence[Any],
    sizes: Mapping[str, int],
    lengths: dict[str, int],
) -> str:
    """Check a list of Python numbers. Lists are short: numpy would take five times as long."""
    if not isinstance(values, list | tuple):
        if not isinstance(values, np.ndarray):
            return f"{name}: {values!r} is not a list"
        values = values.tolist()
    (axis,) = field.shape
    length = lengths.setdefault(axis, len(values)) if isinstance(axis, str) else axis
    if len(values) != length:
        return f"{name}: {len(values)} values, not {length}"
    if len(values) < field.shortest:
        return f"{name}: {len(values)} {axis}, not {field.shortest} or more"
    bounds = _bounds(field, sizes[field.below] - 1 if field.below is not None else None)
    if not values or bounds.hold(values):
        return ""
    wrong = next((value for value in values if not bounds.hold([value])), values)
    return f"{name}: {wrong!r} is not {bounds}"


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The values that a field may have."""

    types: frozenset[type]
    low: float | None
    high: float | None
    tolerance: float

    def hold(self, values: Sequence[Any]) -> bool:
        """Whether one or more Python numbers are within the bounds."""
        if not self.types.issuperset(map(type, values)):
            return False
        # With a NaN, minimum and maximum depend on the order; the sum is NaN in any order.
        return self.hold_range(min(values), max(values)) and (
            float not in self.types or math.isfinite(sum(values))
        )

    def hold_range(self, low: float, high: float) -> bool:
        return (self.low is None or low >= self.low - self.tolerance) and (
            self.high is None or high <= self.high + self.tolerance
        )

    def __str__(self) -> str:
        what = "a number" if float in self.types else "an integer"
        if self.low is None and self.high is None:
            return "a finite number"
        low = "" if self.low is None else f" from {self.low:.10g}"
        return what + low + ("" if self.high is None else f" to {self.high:.10g}")


@lru_cache
def _bounds(field: Field, top: int | None) -> _Bounds:
    integers = np.dtype(field.dtype).kind in "iu"
    high = top if top is not None else field.high
    low = field.low
    if integers:  # the cache holds int32
        low, high = -_MAX_INT if low is None else low, _MAX_INT if high is None else high
    types = frozenset({int} if integers else {int, float})
    return _Bounds(types, low, high, field.tolerance)


def _shape_problem(name: str, field: Field, shape: tuple[int, ...], lengths: dict[str, int]) -> str:
    expected = [axis if isinstance(axis, int) else lengths.get(axis, axis) for axis in field.shape]
    fits = len(shape) == len(expected) and all(
        isinstance(axis, str) or axis == length
        for axis, length in zip(expected, shape, strict=True)
    )
    if not fits:
        return f"{name}: {_shape_text(shape)} values, not {_shape_text(expected)}"
    if shape[0] < field.shortest:
        return f"{name}: {shape[0]} {field.shape[0]}, not {field.shortest} or more"
    for axis, length in zip(field.shape, shape, strict=True):
        if isinstance(axis, str):
            lengths[axis] = length
    return ""


def _shape_text(shape: Sequence[int | str]) -> str:
    return " x ".join(map(str, shape))
