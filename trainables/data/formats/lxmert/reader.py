"""Read examples from LXMERT's files: VQA, GQA and NLVR2.

`Layout.records` is `answers` (with scores) or `pair` (of images).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.formats.json_stream import read_json, read_list
from trainables.data.formats.lxmert.tsv import TsvLine, read_answers, read_tsv
from trainables.data.formats.wordpiece import WordPiece
from trainables.data.schema.examples import VocabularyInfo
from trainables.data.schema.layouts import Layout, SplitFiles
from trainables.data.schema.records import (
    Decode,
    ExampleRecord,
    ImageKey,
    ImageRecord,
    Reader,
    SplitName,
)
from trainables.errors import DataError

_ADVICE = "download or write this file again"


@dataclass(frozen=True)
class LxmertReader(Reader):
    root: Path
    layout: Layout

    def vocabulary(self) -> VocabularyInfo:
        return self._word_piece.vocabulary

    def answers(self) -> tuple[str, ...]:
        if self.layout.answers_file:
            return read_answers(self.root / self.layout.answers_file)
        return self.layout.answer_names

    def records(self, split: SplitName) -> Iterator[ExampleRecord]:
        labels = {answer: label for label, answer in enumerate(self.answers())}
        split_files = self.layout.train if split == "train" else self.layout.held_out
        for files in split_files:
            yield from self._word_piece.tokenize(self._entries(files, labels))

    def images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        by_file: dict[str, set[str]] = defaultdict(set)
        for file, name in wanted:
            by_file[str(file)].add(str(name))
        for file, names in by_file.items():
            for line in read_tsv(self.root / file, names):
                names.remove(line.name)
                yield (file, line.name), partial(_regions, line)
                if not names:  # LXMERT's minival is in the first 5,000 of 40,504 lines
                    break

    def sample_images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        """Yield the first image of each file, since one that is searched may be its last."""
        for file in dict.fromkeys(str(file) for file, _ in wanted):
            line = next(read_tsv(self.root / file), None)
            if line is None:
                raise DataError(f"{self.root / file}: holds no image; {_ADVICE}")
            yield (file, line.name), partial(_regions, line)

    def findings(self, progress: Callable[[str, int], None]) -> Iterator[str]:
        if not self.layout.answers_file:
            return
        file = self.root / self.layout.answers_file
        other = file.with_name("trainval_label2ans.json")
        try:
            if list(read_answers(file)) != read_json(other, list, _ADVICE):
                yield f"{other}: does not list the answers of {file.name} in their order; {_ADVICE}"
        except DataError as error:
            yield str(error)

    @cached_property
    def _word_piece(self) -> WordPiece:
        return WordPiece(self.root / self.layout.vocabulary_file, self.layout.max_tokens)

    def _entries(
        self, files: SplitFiles, labels: Mapping[str, int]
    ) -> Iterator[tuple[str, ExampleRecord]]:
        file = self.root / files.texts
        for number, fields in enumerate(read_list(file, _ADVICE)):
            entry = _Entry(file, number, fields)
            if self.layout.records == "pair":
                yield entry["sent"], _pair(entry, files)
            else:
                unlisted = self.layout.unlisted_answers
                yield entry["sent"], _question(entry, files, labels, unlisted)


@dataclass(frozen=True, slots=True)
class _Entry:
    file: Path
    number: int
    fields: Any

    def __getitem__(self, name: str) -> Any:
        if not isinstance(self.fields, dict) or self.fields.get(name) is None:
            raise self.error(f"has no {name}")
        return self.fields[name]

    def error(self, what: str) -> DataError:
        return DataError(f"{self.file}: entry {self.number} {what}; {_ADVICE}")


def _question(
    entry: _Entry, files: SplitFiles, labels: Mapping[str, int], allow_unknown: bool
) -> ExampleRecord:
    """Convert a question of VQA or GQA. Some held-out answers of GQA are not in the file of answers
    (`allow_unknown`); no prediction matches them."""
    target = entry["label"]
    if not isinstance(target, dict):
        raise entry.error(f"has label = {target!r}, not answers with scores")
    known = {answer: score for answer, score in target.items() if answer in labels}
    if len(known) < len(target) and not allow_unknown:
        unknown = next(answer for answer in target if answer not in labels)
        raise entry.error(f"has the answer {unknown!r}, which the file of answers lacks")
    return ExampleRecord(
        key=str(entry["question_id"]),
        file=files.texts,
        texts=(),
        images=((files.images[0], str(entry["img_id"])),),
        labels=[labels[answer] for answer in known],
        scores=list(known.values()),
    )


def _pair(entry: _Entry, files: SplitFiles) -> ExampleRecord:
    return ExampleRecord(
        key=str(entry["identifier"]),
        file=files.texts,
        texts=(),
        images=tuple((files.images[0], str(entry[name])) for name in ("img0", "img1")),
        labels=[entry["label"]],
        scores=[1.0],
    )


def _regions(line: TsvLine) -> ImageRecord:
    height, width = line.size()
    features, corners = line.array("features"), line.array("boxes")
    scaled = corners / np.array([width, height, width, height], np.float32)
    sides = scaled[:, 2:] - scaled[:, :2]
    area = sides[:, :1] * sides[:, 1:]
    boxes = np.concatenate([scaled, sides, area], axis=1)
    return {"features": features, "boxes": boxes.astype(np.float32)}


def open_reader(root: Path, layout: Layout, *, image_size: int, patch_size: int) -> LxmertReader:
    """Return a reader of a task's files. It takes no sizes: the images are regions."""
    return LxmertReader(root, layout)
