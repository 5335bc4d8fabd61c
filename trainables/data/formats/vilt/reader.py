"""From ViLT's and METER's tables to examples: VQA, NLVR2, SNLI-VE and retrieval."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from trainables.data.formats.vilt.arrow import ArrowTable, Kind, answer_names
from trainables.data.formats.wordpiece import WordPiece
from trainables.data.schema.examples import Vocabulary
from trainables.data.schema.layouts import YES_NO, Layout, Part
from trainables.data.schema.records import Decode, Image, ImageName, Record, SplitName
from trainables.errors import DataError

KINDS: Mapping[str, Kind] = {
    "vqa": "vqa",
    "nlvr2": "nlvr2",
    "snli_ve": "snli",
    "retrieval": "caption",
}
LONGER = 1333 / 800
"""Most that an image's longer side may be of `image_size`, which is its shorter side."""

_COLUMNS: Mapping[Kind, tuple[str, ...]] = {
    "vqa": ("questions", "question_id", "answer_labels", "answer_scores"),
    "nlvr2": ("questions", "answers", "identifier"),
    "snli": ("sentences", "labels"),
    "caption": ("caption", "image_id"),
}
_CURE = "write this table again"


@dataclass(frozen=True)
class ViltReader:
    """Implements `trainables.data.schema.records.Reader`."""

    root: Path
    task: str
    layout: Layout
    image_size: int
    patch_size: int

    def vocabulary(self) -> Vocabulary:
        return self._words.vocabulary

    def answers(self) -> tuple[str, ...]:
        if self.task != "vqa":
            return self.layout.names
        parts = (*self.layout.train, *self.layout.held_out)
        return answer_names(self._table(part) for part in parts)

    def records(self, split: SplitName) -> Iterator[Record]:
        for part in self._parts(split):
            yield from self._words.records(self._rows(self._table(part), part))

    def images(
        self, split: SplitName, wanted: Collection[ImageName]
    ) -> Iterator[tuple[ImageName, Decode]]:
        for part in self._parts(split):
            table = self._table(part)
            for row, images in enumerate(table.image_bytes()):
                for column, encoded in enumerate(images):
                    name = (part.texts, row, column)
                    if name in wanted:
                        where = f"{table.file}: row {row}, {table.images()[column]}"
                        yield name, partial(self._pixels, encoded, where)

    def close(self) -> None:
        """The tables' maps go with the reader."""

    @cached_property
    def _words(self) -> WordPiece:
        return WordPiece(self.root / self.layout.vocabulary, self.layout.longest)

    def _parts(self, split: SplitName) -> tuple[Part, ...]:
        return self.layout.train if split == "train" else self.layout.held_out

    def _table(self, part: Part) -> ArrowTable:
        return ArrowTable(self.root / part.texts, KINDS[self.task])

    def _rows(self, table: ArrowTable, part: Part) -> Iterator[tuple[str, Record]]:
        count = len(self.answers()) if table.kind == "vqa" else len(self.layout.names)
        for number, values in enumerate(table.rows(_COLUMNS[table.kind])):
            row = _Row(table, number, values, count)
            images = tuple((part.texts, number, n) for n in range(len(table.images())))
            if table.kind == "vqa":
                yield from _questions(row, images)
            elif table.kind == "nlvr2":
                yield from _statements(row, images)
            elif table.kind == "snli":
                yield from _hypotheses(row, images, Path(part.texts).stem)
            else:
                yield from _captions(row, images)

    def _pixels(self, encoded: Any, where: str) -> Image:
        try:
            with Pillow.open(io.BytesIO(encoded)) as image:
                return resized(image.convert("RGB"), self.image_size, self.patch_size)
        except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
            raise DataError(f"{where}: cannot be decoded ({error}); {_CURE}") from error


def resized(image: Pillow.Image, image_size: int, patch_size: int) -> Image:
    """The shorter side becomes `image_size`, the longer at most 1333/800 of that, and both are cut
    down to multiples of `patch_size` (bicubic, the aspect not quite kept), as ViLT's
    `transforms/utils.py` does."""
    scale = image_size / min(image.size)
    most = int(LONGER * image_size)
    sides = [side * scale for side in image.size]
    if max(sides) > most:
        sides = [side * (most / max(sides)) for side in sides]
    width, height = (max(1, int(side + 0.5) // patch_size) * patch_size for side in sides)
    pixels = np.asarray(image.resize((width, height), Pillow.Resampling.BICUBIC))
    return {"pixels": pixels.reshape(-1, 3), "size": np.array([height, width], np.int32)}


@dataclass(frozen=True, slots=True)
class _Row:
    table: ArrowTable
    number: int
    values: Mapping[str, Any]
    answers: int

    def lists(self, *columns: str) -> list[tuple[Any, ...]]:
        """Of columns with one entry per text: the entries of each text."""
        found = [self.values[column] for column in columns]
        if any(each is None or len(each) != len(found[0]) for each in found):
            raise self.wrong(f"has not one entry per text in {', '.join(columns)}")
        if any(entry is None for each in found for entry in each):
            raise self.wrong(f"has an empty entry in {', '.join(columns)}")
        return list(zip(*found, strict=True))

    def label(self, value: Any) -> int:
        if not isinstance(value, int) or not 0 <= value < self.answers:
            raise self.wrong(f"has the label {value!r}, there are {self.answers} answers")
        return value

    def wrong(self, what: str) -> DataError:
        return DataError(f"{self.table.file}: row {self.number} {what}; {_CURE}")


def _questions(row: _Row, images: tuple[ImageName, ...]) -> Iterator[tuple[str, Record]]:
    for text, key, labels, scores in row.lists(*_COLUMNS["vqa"]):
        if len(labels) != len(scores):
            raise row.wrong(f"has {len(labels)} labels and {len(scores)} scores for question {key}")
        known = [row.label(label) for label in labels]
        yield text, Record(key=str(key), texts=(), images=images, labels=known, scores=scores)


def _statements(row: _Row, images: tuple[ImageName, ...]) -> Iterator[tuple[str, Record]]:
    """Keys are like NLVR2's own identifiers; the tables keep all of them but the last number."""
    for place, (text, answer) in enumerate(row.lists("questions", "answers")):
        if answer not in YES_NO:
            raise row.wrong(f'has the answer {answer!r}, not "True" or "False"')
        key = f"{row.values['identifier']}-{place}"
        label = YES_NO.index(answer)
        yield text, Record(key=key, texts=(), images=images, labels=[label], scores=[1.0])


def _hypotheses(
    row: _Row, images: tuple[ImageName, ...], file: str
) -> Iterator[tuple[str, Record]]:
    for place, (pair, label) in enumerate(row.lists("sentences", "labels")):
        if len(pair) != 2:
            raise row.wrong(f"has {len(pair)} sentences where premise and hypothesis belong")
        key, known = f"{file}-{row.number}-{place}", row.label(label)
        yield pair[1], Record(key=key, texts=(), images=images, labels=[known], scores=[1.0])


def _captions(row: _Row, images: tuple[ImageName, ...]) -> Iterator[tuple[str, Record]]:
    """Without repetitions, as the authors' loaders; these keep the order too."""
    found = [text for (text,) in row.lists("caption")]
    for place, text in enumerate(dict.fromkeys(found)):
        yield text, Record(key=f"{row.values['image_id']}#{place}", texts=(), images=images)
