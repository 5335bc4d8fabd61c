"""Read examples from UNITER's databases, for every task that its authors published data for.

`Layout.records` is `answers` (with scores), `pair` (of images), `choices` (VCR's), `caption` or
`expression` (RefCOCO's).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from trainables.data.formats.json_stream import read_json, read_pairs
from trainables.data.formats.lxmert.tsv import read_answers
from trainables.data.formats.uniter.lmdb import ImageDb, TextDb, box_rule
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

_ADVICE = "download or write this database again"
_QUESTION, _ANSWER, _RATIONALE = 0, 2, 3
"""Token types of VCR (UNITER's `data/vcr.py`); 1 is a region's."""
_SPECIAL = ("CLS", "SEP", "MASK", "v_range")


@dataclass(frozen=True, slots=True)
class _TextRecord:
    """A record of a text database, with what is needed to convert it and to write error
    messages."""

    db: TextDb
    files: SplitFiles
    split: SplitName
    key: str
    record: dict[str, Any]
    vocabulary: VocabularyInfo
    trained: tuple[bool, ...]
    """Whether each of the lengths that the files list is short enough to train on."""

    def __getitem__(self, name: str) -> Any:
        if self.record.get(name) is None:
            raise self.error(f"has no {name}")
        return self.record[name]

    def error(self, what: str) -> DataError:
        return DataError(f"{self.db.folder}: the record {self.key} {what}; {_ADVICE}")

    def index(self, name: str, count: int) -> int:
        """Return the field `name`, an integer from 0 to count - 1."""
        value = self[name]
        if not isinstance(value, int) or not 0 <= value < count:
            raise self.error(f"has {name} = {value!r}, not 0 to {count - 1}")
        return value

    def ids(self, value: Any, name: str = "input_ids") -> list[int]:
        if not isinstance(value, list):
            raise self.error(f"has {name} that are not a list of token ids")
        return value

    def four_texts(self, name: str) -> list[list[int]]:
        if not isinstance(self[name], list) or len(self[name]) != 4:
            raise self.error(f"has {name} that are not 4 lists")
        return [self.ids(each, name) for each in self[name]]

    def example(
        self,
        texts: list[list[int]],
        images: tuple[ImageKey, ...],
        *,
        labels: Sequence[int] = (),
        scores: Sequence[float] = (),
        token_types: Sequence[Sequence[int]] = (),
    ) -> ExampleRecord:
        return ExampleRecord(
            key=self.key,
            file=self.files.texts,
            texts=texts,
            images=images,
            labels=labels,
            scores=scores,
            token_types=token_types,
        )

    def image_files(self, count: int) -> list[str]:
        value = self["img_fname"]
        names = [value] if isinstance(value, str) else list(value)
        if len(names) != count or not all(isinstance(name, str) for name in names):
            raise self.error(f"has img_fname = {value!r}, not {count} file names")
        return names

    def sequence(self) -> list[list[int]]:
        return [[self.vocabulary.cls, *self.ids(self["input_ids"]), self.vocabulary.sep]]


def _image(text: _TextRecord) -> tuple[ImageKey, ...]:
    return ((text.files.images[0], text.image_files(1)[0]),)


def _caption(text: _TextRecord) -> ExampleRecord:
    return text.example(text.sequence(), _image(text))


def _answers(text: _TextRecord) -> ExampleRecord:
    target = text["target"]
    if not isinstance(target, dict) or not {"labels", "scores"} <= target.keys():
        raise text.error("has a target without labels and scores")
    labels, scores = list(target["labels"]), list(target["scores"])
    return text.example(text.sequence(), _image(text), labels=labels, scores=scores)


def _pair(text: _TextRecord) -> ExampleRecord:
    images = tuple((text.files.images[0], name) for name in text.image_files(2))
    return text.example(text.sequence(), images, labels=[text["target"]], scores=[1.0])


def _choices(text: _TextRecord) -> ExampleRecord:
    cls, sep = text.vocabulary.cls, text.vocabulary.sep
    question = text.ids(text["input_ids"])
    answers, rationales = text.four_texts("input_ids_as"), text.four_texts("input_ids_rs")
    right = text.index("qa_target", 4)
    texts = [[cls, *question, sep, *answer, sep] for answer in answers]
    # The separator before a segment already has the segment's type.
    question_types = [_QUESTION] * (1 + len(question))
    types = [[*question_types, *[_ANSWER] * (len(answer) + 2)] for answer in answers]
    for rationale in rationales:
        texts.append([*texts[right], *rationale, sep])
        types.append([*types[right][:-1], *[_RATIONALE] * (len(rationale) + 2)])
    annotated_db, detected_db = text.files.images
    annotated, detected = text.image_files(2)
    images = ((annotated_db, annotated, detected_db, detected),)
    return text.example(
        texts,
        images,
        labels=[right, text["qar_target"]],
        scores=[float(trained) for trained in text.trained],
        token_types=types,
    )


def _referring_expression(
    text: _TextRecord, images: Mapping[int, Mapping[str, Any]]
) -> ExampleRecord:
    """Convert a record of RefCOCO+. As in UNITER's `data/re.py`, which also defines the image
    names, training uses annotated boxes, and evaluation detected ones."""
    image = images.get(text["image_id"])
    if image is None:
        raise text.error(f"names the image {text['image_id']}, which images.json does not list")
    boxes = "coco_gt" if text.split == "train" else "det_coco"
    name = f"visual_grounding_{boxes}_{int(text['image_id']):012}.npz"
    labels: list[int] = []
    if text.split == "train":
        if text["ann_id"] not in image["ann_ids"]:
            raise text.error(f"names the object {text['ann_id']}, which its image does not list")
        labels = [image["ann_ids"].index(text["ann_id"])]
    scores = [*text["bbox"], image["width"], image["height"]]
    regions = ((text.files.images[0], name),)
    return text.example(text.sequence(), regions, labels=labels, scores=scores)


def _choice_lengths(db: TextDb) -> Iterator[tuple[str, int, int]]:
    """Yield (key, length for Q->A, length for QA->R), as `VcrTxtTokLmdb` in UNITER's `data/vcr.py`
    reads them."""
    qa_r = dict(db.lengths("id2len_qar"))
    for key, q_a in db.lengths("id2len_qa"):
        if key not in qa_r:
            raise DataError(f"{db.folder / 'id2len_qar.json'}: has no record {key}; {_ADVICE}")
        yield key, q_a, qa_r[key]


def _entries(file: Path, *fields: str) -> list[dict[str, Any]]:
    """Return the entries of a JSON list, which must have `fields`."""
    entries: list[dict[str, Any]] = read_json(file, list, _ADVICE)
    for number, entry in enumerate(entries):
        missing = [each for each in fields if not isinstance(entry, dict) or each not in entry]
        if missing:
            raise DataError(f"{file}: entry {number} has no {missing[0]}; {_ADVICE}")
    return entries


_Convert: TypeAlias = Callable[[_TextRecord], ExampleRecord]
_CONVERTERS: Mapping[str, _Convert] = {
    "answers": _answers,
    "pair": _pair,
    "caption": _caption,
}
_CHOICES, _EXPRESSION = "choices", "expression"
"""The kinds of `Layout.records`. Databases of choices and of referring expressions need other JSON
files."""


@dataclass(frozen=True)
class UniterReader(Reader):
    root: Path
    layout: Layout
    _texts: dict[str, TextDb] = field(default_factory=dict)
    _images: dict[str, ImageDb] = field(default_factory=dict)
    _objects: dict[ImageKey, int] = field(default_factory=dict)
    """Number of regions that an image must have, because a target is an index into them."""

    def vocabulary(self) -> VocabularyInfo:
        """Return the vocabulary of `meta.json`, which must be the same in all databases."""
        split_files = (*self.layout.train, *self.layout.held_out)
        first, *others = (self._text(files) for files in split_files)
        missing = [name for name in _SPECIAL if name not in first.meta]
        if missing:
            raise DataError(f"{first.folder / 'meta.json'}: has no {missing[0]}; {_ADVICE}")
        for other in others:
            if any(first.meta[name] != other.meta.get(name) for name in _SPECIAL):
                what = f"was built with another vocabulary than {first.folder}"
                raise DataError(f"{other.folder / 'meta.json'}: {what}; build both with one")
        meta = first.meta
        start, end = meta["v_range"]
        ids = {"cls": meta["CLS"], "sep": meta["SEP"], "mask": meta["MASK"]}
        # UNITER pads with 0, which is BERT's [PAD]; not all databases list the unknown word.
        return VocabularyInfo(pad=0, **ids, unknown=meta.get("UNK", 100), first=start, size=end)

    def answers(self) -> tuple[str, ...]:
        if self.layout.answers_file:
            return read_answers(self.root / self.layout.answers_file)
        return self.layout.answer_names

    def records(self, split: SplitName) -> Iterator[ExampleRecord]:
        vocabulary = self.vocabulary()
        split_files = self.layout.train if split == "train" else self.layout.held_out
        for files in split_files:
            db = self._text(files)
            convert, keys = self._converter(db)
            for key, *lengths in keys:
                # As in the authors' loaders, long texts are dropped in training, never truncated.
                # VCR has two lengths, because its Q->A can be short enough when its QA->R is not.
                trained = tuple(
                    split == "held_out" or length <= self.layout.max_tokens for length in lengths
                )
                if any(trained):
                    record = db.read(key)
                    yield convert(_TextRecord(db, files, split, key, record, vocabulary, trained))

    def images(
        self, split: SplitName, wanted: Collection[ImageKey]
    ) -> Iterator[tuple[ImageKey, Decode]]:
        for key in wanted:
            for folder in map(str, key[::2]):
                if folder not in self._images:
                    rule = box_rule(Path(folder).name)
                    self._images[folder] = ImageDb(self.root / folder, rule)
            yield key, partial(self._regions, key)

    def findings(self, progress: Callable[[str, int], None]) -> Iterator[str]:
        """Compare the JSON files of each text database with its records; yield the first difference
        in each file."""
        for files in (*self.layout.train, *self.layout.held_out):
            try:
                db = self._text(files)
            except DataError:
                continue  # reading the examples has met it
            try:
                yield from self._differences(db, progress)
            except DataError as error:
                yield str(error)
            except KeyError:
                continue  # reading the examples has met a record without the field

    def _differences(self, db: TextDb, progress: Callable[[str, int], None]) -> Iterator[str]:
        # VCR's files have sums of several lengths, by a rule that its authors did not publish.
        lengths = db.lengths() if self.layout.example.texts == 1 else ()
        for number, (key, length) in enumerate(lengths, 1):
            progress(f"{db.folder.name}: id2len.json", number)
            tokens = len(db.read(key)["input_ids"])
            if tokens != length:
                what = f"lists {length} tokens for {key}, its record has {tokens}"
                yield f"{db.folder / 'id2len.json'}: {what}; {_ADVICE}"
                break
        images_file = db.folder / "txt2img.json"
        has_names = self.layout.records != _EXPRESSION
        for key, name in read_pairs(images_file, _ADVICE) if has_names else ():
            if db.read(key)["img_fname"] != name:
                what = f"names another image for {key} than its record"
                yield f"{images_file}: {what}; {_ADVICE}"
                break

    def close(self) -> None:
        for texts in self._texts.values():
            texts.close()
        for images in self._images.values():
            images.close()

    def _converter(self, db: TextDb) -> tuple[_Convert, Iterator[tuple[Any, ...]]]:
        """Return the function that converts a database's records, and their keys in order, each
        with the lengths that the files list."""
        if self.layout.records == _CHOICES:
            return _choices, _choice_lengths(db)
        if self.layout.records != _EXPRESSION:
            return _CONVERTERS[self.layout.records], db.lengths()
        entries = _entries(db.folder / "images.json", "id", "ann_ids", "width", "height")
        images = {image["id"]: image for image in entries}
        lengths = dict(db.lengths())
        refs = _entries(db.folder / "refs.json", "sent_ids")
        keys = [str(sentence) for ref in refs for sentence in ref["sent_ids"]]
        for key in keys:
            if key not in lengths:
                raise DataError(f"{db.folder / 'id2len.json'}: has no record {key}; {_ADVICE}")

        def convert(text: _TextRecord) -> ExampleRecord:
            example = _referring_expression(text, images)
            if example.labels:
                self._objects[example.images[0]] = len(images[text["image_id"]]["ann_ids"])
            return example

        return convert, ((key, lengths[key]) for key in keys)

    def _text(self, files: SplitFiles) -> TextDb:
        if files.texts not in self._texts:
            self._texts[files.texts] = TextDb(self.root / files.texts)
        return self._texts[files.texts]

    def _regions(self, key: ImageKey) -> ImageRecord:
        sources = zip(key[::2], key[1::2], strict=True)
        images = [self._read(str(folder), str(file)) for folder, file in sources]
        image = {field: np.concatenate([each[field] for each in images]) for field in images[0]}
        objects = self._objects.get(key)
        if objects is not None and len(image["features"]) != objects:
            what = f"{key[1]} has {len(image['features'])} regions, images.json lists {objects}"
            raise DataError(f"{self.root / str(key[0])}: {what}; give the annotated boxes")
        return image

    def _read(self, folder: str, file: str) -> ImageRecord:
        db = self._images[folder]
        fields = ("features", "norm_bb", *(["soft_labels"] * self.layout.classes))
        record = db.read(file, fields)
        boxes = record["norm_bb"].astype(np.float32)
        area = boxes[:, 4:5] * boxes[:, 5:6]
        image = {"features": record["features"], "boxes": np.concatenate([boxes, area], axis=1)}
        if self.layout.classes:
            if "soft_labels" not in record:
                raise DataError(f"{db.folder}: {file} has no soft_labels; {_ADVICE}")
            image["classes"] = record["soft_labels"].astype(np.float16, copy=False)
        return image


def open_reader(root: Path, layout: Layout, *, image_size: int, patch_size: int) -> UniterReader:
    """Return a reader of a task's databases. It takes no sizes: the images are regions."""
    return UniterReader(root, layout)
