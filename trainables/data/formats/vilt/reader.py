"""Read examples from ViLT's and METER's tables: VQA, NLVR2, SNLI-VE and retrieval.

`Layout.records` is the kind of a table in `trainables.data.formats.vilt.arrow`.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from trainables.data.formats.vilt.arrow import READ_COLUMNS, ArrowTable, answer_names
from trainables.data.formats.wordpiece import WordPiece
from trainables.data.schema.examples import VocabularyInfo
from trainables.data.schema.layouts import NLVR2_ANSWERS, Layout, SplitFiles
from trainables.data.schema.records import (
    Decode,
    ExampleRecord,
    ImageKey,
    ImageRecord,
    Reader,
    SplitName,
)
from trainables.errors import DataError, is_damage

MAX_SIDE_RATIO = 1333 / 800
"""Maximum of an image's longer side over `image_size`, the length of its shorter side."""

_ADVICE = "write this table again"


@dataclass(frozen=True)
class ViltReader(Reader):
    root: Path
    layout: Layout
    image_size: int
    patch_size: int

    def vocabulary(self) -> VocabularyInfo:
        return self._word_piece.vocabulary

    def answers(self) -> tuple[str, ...]:
        if self.layout.records != "vqa":
            return self.layout.answer_names
        split_files = (*self.layout.train, *self.layout.held_out)
        return answer_names(self._table(files) for files in split_files)

    def records(self, split: SplitName) -> Iterator[ExampleRecord]:
        for files in self._files(split):
            yield from self._word_piece.tokenize(self._rows(self._table(files), files))

    def images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        for files in self._files(split):
            table = self._table(files)
            for row, images in enumerate(table.image_bytes()):
                for column, encoded in enumerate(images):
                    key = (files.texts, row, column)
                    if key in wanted:
                        where = f"{table.file}: row {row}, {table.image_columns()[column]}"
                        yield key, partial(self._pixels, encoded, where)

    @cached_property
    def _word_piece(self) -> WordPiece:
        return WordPiece(self.root / self.layout.vocabulary_file, self.layout.max_tokens)

    def _files(self, split: SplitName) -> tuple[SplitFiles, ...]:
        return self.layout.train if split == "train" else self.layout.held_out

    def _table(self, files: SplitFiles) -> ArrowTable:
        return ArrowTable(self.root / files.texts, self.layout.records)

    def _rows(self, table: ArrowTable, files: SplitFiles) -> Iterator[tuple[str, ExampleRecord]]:
        for number, values in enumerate(table.rows(READ_COLUMNS[table.kind])):
            row = _Row(table, files.texts, number, values)
            images = tuple((files.texts, number, n) for n in range(len(table.image_columns())))
            if table.kind == "vqa":
                yield from _questions(row, images)
            elif table.kind == "nlvr2":
                yield from _statements(row, images)
            elif table.kind == "snli":
                yield from _hypotheses(row, images)
            else:
                yield from _captions(row, images)

    def _pixels(self, encoded: Any, where: str) -> ImageRecord:
        try:
            with Pillow.open(io.BytesIO(encoded)) as image:
                return resize_image(image.convert("RGB"), self.image_size, self.patch_size)
        except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
            raise DataError(
                f"{where}: cannot be decoded ({error}); {_ADVICE}", repeats=is_damage(error)
            ) from error


def resize_image(image: Pillow.Image, image_size: int, patch_size: int) -> ImageRecord:
    """Resize (bicubic) as ViLT's `transforms/utils.py` does: the shorter side to `image_size`, the
    longer to at most 1333/800 of that, both rounded down to multiples of `patch_size`, so the
    aspect ratio changes slightly."""
    scale = image_size / min(image.size)
    max_side = int(MAX_SIDE_RATIO * image_size)
    sides = [side * scale for side in image.size]
    if max(sides) > max_side:
        sides = [side * (max_side / max(sides)) for side in sides]
    width, height = (max(1, int(side + 0.5) // patch_size) * patch_size for side in sides)
    pixels = np.asarray(image.resize((width, height), Pillow.Resampling.BICUBIC))
    return {"pixels": pixels.reshape(-1, 3), "size": np.array([height, width], np.int32)}


@dataclass(frozen=True, slots=True)
class _Row:
    table: ArrowTable
    file: str
    """Path of the table below the data folder."""
    number: int
    values: Mapping[str, Any]

    def entries(self, *columns: str) -> list[tuple[Any, ...]]:
        """Return the entries of each text, from columns with one entry per text."""
        lists = [self.values[column] for column in columns]
        if any(each is None or len(each) != len(lists[0]) for each in lists):
            raise self.error(f"does not have one entry per text in {', '.join(columns)}")
        if any(entry is None for each in lists for entry in each):
            raise self.error(f"has an empty entry in {', '.join(columns)}")
        return list(zip(*lists, strict=True))

    def example(
        self,
        key: str,
        images: tuple[ImageKey, ...],
        labels: Sequence[int] = (),
        scores: Sequence[float] = (),
    ) -> ExampleRecord:
        """Return a record without its text, which is tokenised later."""
        return ExampleRecord(
            key=key, file=self.file, texts=(), images=images, labels=labels, scores=scores
        )

    def error(self, what: str) -> DataError:
        return DataError(f"{self.table.file}: row {self.number} {what}; {_ADVICE}")


def _questions(row: _Row, images: tuple[ImageKey, ...]) -> Iterator[tuple[str, ExampleRecord]]:
    columns = ("questions", "question_id", "answer_labels", "answer_scores")
    for text, key, labels, scores in row.entries(*columns):
        yield text, row.example(str(key), images, labels, scores)


def _statements(row: _Row, images: tuple[ImageKey, ...]) -> Iterator[tuple[str, ExampleRecord]]:
    """Build keys like NLVR2's identifiers: the tables lack the last number, the statement's
    index."""
    for i, (text, answer) in enumerate(row.entries("questions", "answers")):
        if answer not in NLVR2_ANSWERS:
            raise row.error(f'has the answer {answer!r}, not "True" or "False"')
        key = f"{row.values['identifier']}-{i}"
        yield text, row.example(key, images, [NLVR2_ANSWERS.index(answer)], [1.0])


def _hypotheses(row: _Row, images: tuple[ImageKey, ...]) -> Iterator[tuple[str, ExampleRecord]]:
    for i, (pair, label) in enumerate(row.entries("sentences", "labels")):
        if len(pair) != 2:
            raise row.error(f"has {len(pair)} sentences where premise and hypothesis are expected")
        key = f"{Path(row.file).stem}-{row.number}-{i}"
        yield pair[1], row.example(key, images, [label], [1.0])


def _captions(row: _Row, images: tuple[ImageKey, ...]) -> Iterator[tuple[str, ExampleRecord]]:
    """Drop repeated captions, as the authors' loaders do; here the order stays the same too."""
    texts = [text for (text,) in row.entries("caption")]
    for i, text in enumerate(dict.fromkeys(texts)):
        yield text, row.example(f"{row.values['image_id']}#{i}", images)


def open_reader(root: Path, layout: Layout, *, image_size: int, patch_size: int) -> ViltReader:
    """Return a reader of a task's tables, whose images it resizes for the model."""
    return ViltReader(root, layout, image_size, patch_size)
