"""From LXMERT's files to examples: VQA, GQA and NLVR2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.formats.json_stream import read_list
from trainables.data.formats.lxmert.tsv import Line, read_answers, read_tsv
from trainables.data.formats.wordpiece import WordPiece
from trainables.data.schema.examples import Vocabulary
from trainables.data.schema.layouts import Layout, Part
from trainables.data.schema.records import Decode, Image, ImageName, Record, SplitName
from trainables.errors import DataError

_CURE = "download or write this file again"


@dataclass(frozen=True)
class LxmertReader:
    """Implements `trainables.data.schema.records.Reader`."""

    root: Path
    task: str
    layout: Layout

    def vocabulary(self) -> Vocabulary:
        return self._words.vocabulary

    def answers(self) -> tuple[str, ...]:
        if self.layout.answers:
            return read_answers(self.root / self.layout.answers)
        return self.layout.names

    def records(self, split: SplitName) -> Iterator[Record]:
        labels = {answer: label for label, answer in enumerate(self.answers())}
        parts = self.layout.train if split == "train" else self.layout.held_out
        for part in parts:
            yield from self._words.records(self._entries(part, labels))

    def images(
        self, split: SplitName, wanted: Collection[ImageName]
    ) -> Iterator[tuple[ImageName, Decode]]:
        by_file: dict[str, set[str]] = defaultdict(set)
        for file, name in wanted:
            by_file[str(file)].add(str(name))
        for file, names in by_file.items():
            for line in read_tsv(self.root / file, names):
                names.remove(line.name)
                yield (file, line.name), partial(_regions, line)
                if not names:  # LXMERT's minival lies in the first 5,000 lines of 40,504
                    break

    def close(self) -> None:
        """Nothing is kept open."""

    @cached_property
    def _words(self) -> WordPiece:
        return WordPiece(self.root / self.layout.vocabulary, self.layout.longest)

    def _entries(self, part: Part, labels: Mapping[str, int]) -> Iterator[tuple[str, Record]]:
        file = self.root / part.texts
        for number, entry in enumerate(read_list(file, _CURE)):
            found = _Entry(file, number, entry)
            if self.task == "nlvr2":
                yield found["sent"], _pair(found, part.images[0])
            else:
                yield found["sent"], _question(found, part.images[0], labels, self.task == "gqa")


@dataclass(frozen=True, slots=True)
class _Entry:
    file: Path
    number: int
    fields: Any

    def __getitem__(self, name: str) -> Any:
        if not isinstance(self.fields, dict) or self.fields.get(name) is None:
            raise self.wrong(f"has no {name}")
        return self.fields[name]

    def wrong(self, what: str) -> DataError:
        return DataError(f"{self.file}: entry {self.number} {what}; {_CURE}")


def _question(entry: _Entry, images: str, labels: Mapping[str, int], lenient: bool) -> Record:
    """GQA's held-out answers are not all in the vocabulary; those are always wrong."""
    target = entry["label"]
    if not isinstance(target, dict):
        raise entry.wrong(f"has label = {target!r}, not answers with scores")
    known = {answer: score for answer, score in target.items() if answer in labels}
    if len(known) < len(target) and not lenient:
        unknown = next(answer for answer in target if answer not in labels)
        raise entry.wrong(f"has the answer {unknown!r}, which the file of answers lacks")
    return Record(
        key=str(entry["question_id"]),
        texts=(),
        images=((images, str(entry["img_id"])),),
        labels=[labels[answer] for answer in known],
        scores=[float(score) for score in known.values()],
    )


def _pair(entry: _Entry, images: str) -> Record:
    if entry["label"] not in (0, 1):
        raise entry.wrong(f"has label = {entry['label']!r}, not 0 or 1")
    names = ((images, str(entry["img0"])), (images, str(entry["img1"])))
    label = int(entry["label"])
    return Record(
        key=str(entry["identifier"]), texts=(), images=names, labels=[label], scores=[1.0]
    )


def _regions(line: Line) -> Image:
    height, width = line.size()
    features, corners = line.array("features"), line.array("boxes")
    scaled = corners / np.array([width, height, width, height], np.float32)
    sides = scaled[:, 2:] - scaled[:, :2]
    area = sides[:, :1] * sides[:, 1:]
    boxes = np.concatenate([scaled, sides, area], axis=1)
    return {"features": features.astype(np.float16), "boxes": boxes.astype(np.float32)}
