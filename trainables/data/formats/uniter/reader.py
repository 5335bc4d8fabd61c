"""From UNITER's databases to examples, for every task that its authors published data of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from trainables.data.formats.json_stream import read_json
from trainables.data.formats.lxmert.tsv import read_answers
from trainables.data.formats.uniter.lmdb import ImageDb, TextDb, boxes_of
from trainables.data.schema.examples import Vocabulary
from trainables.data.schema.layouts import Layout, Part
from trainables.data.schema.records import Decode, Image, ImageName, Record, SplitName
from trainables.errors import DataError

_CURE = "download or write this database again"
_QUESTION, _ANSWER, _RATIONALE = 0, 2, 3
"""Token types of VCR (UNITER's `data/vcr.py`); 1 is a region's."""
_SPECIAL = ("CLS", "SEP", "MASK", "v_range")


@dataclass(frozen=True, slots=True)
class _Text:
    """A record of a text database, with all that its errors and its ids need."""

    db: TextDb
    part: Part
    split: SplitName
    key: str
    record: dict[str, Any]
    words: Vocabulary
    labels: int
    """Number of answers."""
    limit: int
    """Ids are smaller."""

    def __getitem__(self, name: str) -> Any:
        if self.record.get(name) is None:
            raise self.wrong(f"has no {name}")
        return self.record[name]

    def wrong(self, what: str) -> DataError:
        return DataError(f"{self.db.folder}: the record {self.key} {what}; {_CURE}")

    def whole(self, name: str, count: int) -> int:
        """A number from 0 to count - 1."""
        value = self[name]
        if not isinstance(value, int) or not 0 <= value < count:
            raise self.wrong(f"has {name} = {value!r}, not 0 to {count - 1}")
        return value

    def ids(self, value: Any, name: str = "input_ids") -> list[int]:
        if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
            raise self.wrong(f"has {name} that are no list of token ids")
        if value and not 0 <= min(value) <= max(value) < self.limit:
            what = f"has the token id {max(value)}" if min(value) >= 0 else "has a token id below 0"
            raise self.wrong(f"{what} in {name}, the vocabulary ends at {self.limit - 1}")
        return value

    def four(self, name: str) -> list[list[int]]:
        if not isinstance(self[name], list) or len(self[name]) != 4:
            raise self.wrong(f"has {name} that are not 4 lists")
        return [self.ids(each, name) for each in self[name]]

    def names(self, count: int) -> list[str]:
        value = self["img_fname"]
        found = [value] if isinstance(value, str) else list(value)
        if len(found) != count or not all(isinstance(name, str) for name in found):
            raise self.wrong(f"has img_fname = {value!r}, not {count} file names")
        return found

    def sequence(self) -> list[list[int]]:
        return [[self.words.cls, *self.ids(self["input_ids"]), self.words.sep]]


def _image(text: _Text) -> tuple[ImageName, ...]:
    return ((text.part.images[0], text.names(1)[0]),)


def _caption(text: _Text) -> Record:
    return Record(key=text.key, texts=text.sequence(), images=_image(text))


def _answers(text: _Text) -> Record:
    target = text["target"]
    if not isinstance(target, dict) or not {"labels", "scores"} <= target.keys():
        raise text.wrong("has a target without labels and scores")
    labels, scores = list(target["labels"]), list(target["scores"])
    if len(labels) != len(scores):
        raise text.wrong(f"has {len(labels)} labels and {len(scores)} scores")
    for label in labels:
        if not isinstance(label, int) or not 0 <= label < text.labels:
            raise text.wrong(f"has the label {label!r}, there are {text.labels} answers")
    texts, images = text.sequence(), _image(text)
    return Record(key=text.key, texts=texts, images=images, labels=labels, scores=scores)


def _pair(text: _Text) -> Record:
    images = tuple((text.part.images[0], name) for name in text.names(2))
    label = text.whole("target", 2)
    texts = text.sequence()
    return Record(key=text.key, texts=texts, images=images, labels=[label], scores=[1.0])


def _choices(text: _Text) -> Record:
    cls, sep = text.words.cls, text.words.sep
    question = text.ids(text["input_ids"])
    answers, rationales = text.four("input_ids_as"), text.four("input_ids_rs")
    right = text.whole("qa_target", 4)
    texts = [[cls, *question, sep, *answer, sep] for answer in answers]
    # The separator before a segment already carries the segment's kind.
    asked = [_QUESTION] * (1 + len(question))
    kinds = [[*asked, *[_ANSWER] * (len(answer) + 2)] for answer in answers]
    for rationale in rationales:
        texts.append([*texts[right], *rationale, sep])
        kinds.append([*kinds[right][:-1], *[_RATIONALE] * (len(rationale) + 2)])
    first, second = text.part.images
    gt, detected = text.names(2)
    return Record(
        key=text.key,
        texts=texts,
        kinds=kinds,
        images=((first, gt, second, detected),),
        labels=[right, text.whole("qar_target", 4)],
    )


def _referred(text: _Text, images: Mapping[int, Mapping[str, Any]]) -> Record:
    """Trained on annotated boxes, scored on detected ones, as UNITER's `data/re.py`, which makes
    up the names of the images too."""
    image = images.get(text["image_id"])
    if image is None:
        raise text.wrong(f"names the image {text['image_id']}, which images.json does not list")
    kind = "coco_gt" if text.split == "train" else "det_coco"
    name = f"visual_grounding_{kind}_{int(text['image_id']):012}.npz"
    labels: list[int] = []
    if text.split == "train":
        if text["ann_id"] not in image["ann_ids"]:
            raise text.wrong(f"names the object {text['ann_id']}, which its image does not list")
        labels = [image["ann_ids"].index(text["ann_id"])]
    scores = [*text["bbox"], image["width"], image["height"]]
    if len(scores) != 6:
        raise text.wrong(f"has bbox = {text['bbox']!r}, not x, y, w, h")
    return Record(
        key=text.key,
        texts=text.sequence(),
        images=((text.part.images[0], name),),
        labels=labels,
        scores=[float(value) for value in scores],
    )


_Make: TypeAlias = Callable[[_Text], Record]
_RECORDS: Mapping[str, _Make] = {
    "vqa": _answers,
    "gqa": _answers,
    "snli_ve": _answers,
    "nlvr2": _pair,
    "vcr": _choices,
    "retrieval": _caption,
    "pretraining": _caption,
}


@dataclass(frozen=True, slots=True)
class UniterReader:
    """Implements `trainables.data.schema.records.Reader`."""

    root: Path
    task: str
    layout: Layout
    _texts: dict[str, TextDb] = field(default_factory=dict)
    _images: dict[str, ImageDb] = field(default_factory=dict)
    _objects: dict[ImageName, int] = field(default_factory=dict)
    """Regions that an image must have: those that a target is counted in."""

    def vocabulary(self) -> Vocabulary:
        """Of `meta.json`, which must be the same in all databases."""
        parts = (*self.layout.train, *self.layout.held_out)
        first, *others = (self._text(part) for part in parts)
        missing = [name for name in _SPECIAL if name not in first.meta]
        if missing:
            raise DataError(f"{first.folder / 'meta.json'}: has no {missing[0]}; {_CURE}")
        for other in others:
            if any(first.meta[name] != other.meta.get(name) for name in _SPECIAL):
                what = f"was made with another vocabulary than {first.folder}"
                raise DataError(f"{other.folder / 'meta.json'}: {what}; make both with one")
        meta = first.meta
        start, end = meta["v_range"]
        ids = {"cls": meta["CLS"], "sep": meta["SEP"], "mask": meta["MASK"]}
        # UNITER pads with 0, which is BERT's [PAD]; not all databases name the unknown word.
        return Vocabulary(pad=0, **ids, unknown=meta.get("UNK", 100), first=start, size=end)

    def answers(self) -> tuple[str, ...]:
        if self.layout.answers:
            return read_answers(self.root / self.layout.answers)
        return self.layout.names

    def records(self, split: SplitName) -> Iterator[Record]:
        words, labels = self.vocabulary(), len(self.answers())
        limit = words.size + self.layout.extra_words
        parts = self.layout.train if split == "train" else self.layout.held_out
        for part in parts:
            db = self._text(part)
            make, keys = self._plan(db)
            for key, length in keys:
                # As the authors' loaders: long texts are left out of training, never cut.
                if split == "held_out" or length <= self.layout.longest:
                    text = _Text(db, part, split, key, db.read(key), words, labels, limit)
                    yield make(text)

    def images(
        self, split: SplitName, wanted: Collection[ImageName]
    ) -> Iterator[tuple[ImageName, Decode]]:
        for name in wanted:
            for folder in map(str, name[::2]):
                if folder not in self._images:
                    boxes = boxes_of(Path(folder).name)
                    self._images[folder] = ImageDb(self.root / folder, boxes)
            yield name, partial(self._regions, name)

    def close(self) -> None:
        for texts in self._texts.values():
            texts.close()
        for images in self._images.values():
            images.close()

    def _plan(self, db: TextDb) -> tuple[_Make, Iterator[tuple[str, int]]]:
        """How a database's records are read, and in which order, with their lengths."""
        if self.task != "refcoco":
            return _RECORDS[self.task], db.lengths()
        listed = read_json(db.folder / "images.json", list, _CURE)
        images = {image["id"]: image for image in listed}
        lengths = dict(db.lengths())
        refs = read_json(db.folder / "refs.json", list, _CURE)
        keys = [str(sentence) for ref in refs for sentence in ref["sent_ids"]]
        for key in keys:
            if key not in lengths:
                raise DataError(f"{db.folder / 'id2len.json'}: has no record {key}; {_CURE}")

        def make(text: _Text) -> Record:
            found = _referred(text, images)
            if found.labels:
                self._objects[found.images[0]] = len(images[text["image_id"]]["ann_ids"])
            return found

        return make, ((key, lengths[key]) for key in keys)

    def _text(self, part: Part) -> TextDb:
        if part.texts not in self._texts:
            self._texts[part.texts] = TextDb(self.root / part.texts)
        return self._texts[part.texts]

    def _regions(self, name: ImageName) -> Image:
        places = list(zip(name[::2], name[1::2], strict=True))
        found = [self._read(str(folder), str(file)) for folder, file in places]
        whole = {field: np.concatenate([each[field] for each in found]) for field in found[0]}
        objects = self._objects.get(name)
        if objects is not None and len(whole["features"]) != objects:
            what = f"{name[1]} has {len(whole['features'])} regions, images.json lists {objects}"
            raise DataError(f"{self.root / str(name[0])}: {what}; give the annotated boxes")
        return whole

    def _read(self, folder: str, file: str) -> Image:
        db = self._images[folder]
        fields = ("features", "norm_bb", *(["soft_labels"] * (self.task == "pretraining")))
        found = db.read(file, fields)
        places = found["norm_bb"].astype(np.float32)
        area = places[:, 4:5] * places[:, 5:6]
        half = found["features"].astype(np.float16, copy=False)
        whole = {"features": half, "boxes": np.concatenate([places, area], axis=1)}
        if self.task == "pretraining":
            if "soft_labels" not in found:
                raise DataError(f"{db.folder}: {file} has no soft_labels; {_CURE}")
            whole["classes"] = found["soft_labels"].astype(np.float16, copy=False)
        return whole
