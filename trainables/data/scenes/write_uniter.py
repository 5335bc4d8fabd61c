"""Scenes as UNITER's databases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.data.formats.json_stream import write_json
from trainables.data.formats.uniter.lmdb import boxes_of, write_image_db, write_text_db
from trainables.data.scenes.dataset import ANSWERS, Book, Item, Job, Share, items_of, shares
from trainables.data.scenes.vocabulary import CLS, FIRST, MASK, SEP, UNKNOWN, VOCABULARY, encode
from trainables.data.scenes.world import SHAPES, SIDE, Thing
from trainables.data.schema.layouts import LAYOUTS, YES_NO, Part

_SPECIAL = {"CLS": CLS, "SEP": SEP, "MASK": MASK, "UNK": UNKNOWN}
META = {
    **{name: VOCABULARY.index(word) for name, word in _SPECIAL.items()},
    "v_range": [FIRST, len(VOCABULARY)],
}

_Record: TypeAlias = tuple[str, Mapping[str, Any]]


def jobs(book: Book) -> Iterator[Job]:
    images: dict[str, set[int]] = defaultdict(set)
    for share in shares(book, "uniter"):
        for database in share.part.images:
            images[database].update(share.scenes)
        yield Job(share.part.texts, len(share.scenes), partial(_texts, book, share))
    for path, numbers in images.items():
        yield Job(path, len(numbers), partial(_regions, book, sorted(numbers)))
    for task, answers in ANSWERS.items():
        labels = {answer: label for label, answer in enumerate(answers)}
        yield Job(LAYOUTS[task, "uniter"].answers, 0, partial(write_json, value=labels))


def image_name(database: str, scene: int) -> str:
    """RefCOCO+'s are those that UNITER's code makes up."""
    name = Path(database).name
    named = {"re_coco_gt": "visual_grounding_coco_gt", "re_coco_det": "visual_grounding_det_coco"}
    return f"{named.get(name, name)}_{scene:012}.npz"


def _regions(book: Book, numbers: Iterable[int], folder: Path) -> None:
    """Annotated boxes where the database's name says so (`gt`), else detected ones."""
    looks = book.annotated if "_gt" in folder.name else book.detected

    def images() -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
        for number in numbers:
            seen = looks[number]
            corners = seen.boxes / SIDE
            yield (
                image_name(folder.name, number),
                {
                    "features": seen.features,
                    "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], axis=1),
                    "conf": seen.confidence,
                    "soft_labels": seen.classes,
                },
            )

    write_image_db(folder, images(), boxes=boxes_of(folder.name))


def _texts(book: Book, share: Share, folder: Path) -> None:
    records: Iterator[_Record]
    referring = None
    if share.task == "vcr":
        records = _riddles(book, share)
    elif share.task == "refcoco":
        records, referring = _expressions(book, share), _referring(book, share)
    else:
        records = ((str(item.number), _record(share, item)) for item in items_of(book, share))
    write_text_db(folder, records, meta=META, referring=referring)


def _names(part: Part, scenes: Iterable[int]) -> list[str]:
    return [image_name(database, scene) for scene in scenes for database in part.images]


def _record(share: Share, item: Item) -> dict[str, Any]:
    names = _names(share.part, item.scenes)
    record: dict[str, Any] = {"input_ids": encode(item.text), "img_fname": names[0]}
    if share.task == "nlvr2":
        (answer,) = item.scores
        return record | {"img_fname": names, "target": YES_NO.index(answer)}
    if item.scores:
        labels = ANSWERS.get(share.task) or LAYOUTS[share.task, "uniter"].names
        chosen = [labels.index(answer) for answer in item.scores]
        record["target"] = {"labels": chosen, "scores": list(item.scores.values())}
    return record


def _riddles(book: Book, share: Share) -> Iterator[_Record]:
    for number, riddle in enumerate(book.riddles[share.split]):
        yield (
            f"{share.split}-{number}",
            {
                "input_ids": encode(riddle.question),
                "input_ids_as": [encode(text) for text in riddle.answers],
                "input_ids_rs": [encode(text) for text in riddle.reasons],
                "qa_target": riddle.answer,
                "qar_target": riddle.reason,
                "img_fname": _names(share.part, [riddle.scene]),
            },
        )


def _expressions(book: Book, share: Share) -> Iterator[_Record]:
    places: Counter[int] = Counter()
    for said in book.expressions[share.split]:
        number = Item(said.text, (said.scene,), place=places[said.scene]).number
        places[said.scene] += 1
        thing = book.scenes[said.scene].things[said.thing]
        yield (
            str(number),
            {
                "input_ids": encode(said.text),
                "img_fname": _names(share.part, [said.scene])[0],
                "sent_id": number,
                "ref_id": number,
                "image_id": said.scene,
                "ann_id": _annotation(said.scene, said.thing),
                "bbox": _bbox(thing),
            },
        )


def _referring(book: Book, share: Share) -> dict[str, Any]:
    """The JSON files beside RefCOCO+'s database; every expression is a reference of its own."""
    refs = [
        {
            "ref_id": record["ref_id"],
            "sent_ids": [record["sent_id"]],
            "image_id": record["image_id"],
            "ann_id": record["ann_id"],
        }
        for _, record in _expressions(book, share)
    ]
    images, annotations = [], []
    for scene in share.scenes:
        things = book.scenes[scene].things
        ids = [_annotation(scene, place) for place in range(len(things))]
        images.append({"id": scene, "width": SIDE, "height": SIDE, "ann_ids": ids})
        for number, thing in zip(ids, things, strict=True):
            about = {"id": number, "image_id": scene, "category_id": thing.shape}
            annotations.append(about | {"bbox": _bbox(thing)})
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES)]
    return {"refs": refs, "annotations": annotations, "images": images, "categories": categories}


def _annotation(scene: int, thing: int) -> int:
    return 100 * scene + thing


def _bbox(thing: Thing) -> list[float]:
    """x, y, w, h in pixels."""
    x1, y1, x2, y2 = thing.corners
    return [x1, y1, x2 - x1, y2 - y1]
