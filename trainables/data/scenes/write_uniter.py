"""Write scenes as UNITER's databases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainables.data.formats.json_stream import write_json
from trainables.data.formats.uniter import FORMAT
from trainables.data.formats.uniter.lmdb import box_rule, write_image_db, write_text_db
from trainables.data.scenes.dataset import (
    ANSWER_LISTS,
    SceneDataset,
    SceneExample,
    SplitShare,
    WriteJob,
    examples_of,
    split_shares,
)
from trainables.data.scenes.vocabulary import (
    CLS,
    FIRST_WORD_ID,
    MASK,
    SEP,
    UNKNOWN,
    VOCABULARY,
    encode_text,
)
from trainables.data.scenes.world import IMAGE_SIDE, SHAPES, Thing
from trainables.data.schema.layouts import NLVR2_ANSWERS, SplitFiles

_SPECIAL = {"CLS": CLS, "SEP": SEP, "MASK": MASK, "UNK": UNKNOWN}
_META = {
    **{name: VOCABULARY.index(word) for name, word in _SPECIAL.items()},
    "v_range": [FIRST_WORD_ID, len(VOCABULARY)],
}

_Record: TypeAlias = tuple[str, Mapping[str, Any]]


def jobs(dataset: SceneDataset) -> Iterator[WriteJob]:
    images: dict[str, set[int]] = defaultdict(set)
    for share in split_shares(dataset, "uniter"):
        for database in share.files.images:
            images[database].update(share.scenes)
        yield WriteJob(share.files.texts, len(share.scenes), partial(_write_texts, dataset, share))
    for path, scenes in images.items():
        yield WriteJob(path, len(scenes), partial(_write_regions, dataset, sorted(scenes)))
    for task, answers in ANSWER_LISTS.items():
        labels = {answer: label for label, answer in enumerate(answers)}
        yield WriteJob(FORMAT.layouts[task].answers_file, 0, partial(write_json, value=labels))


def image_name(database: str, scene: int) -> str:
    """Return an image's name; those of RefCOCO+ are defined by UNITER's code."""
    name = Path(database).name
    prefixes = {
        "re_coco_gt": "visual_grounding_coco_gt",
        "re_coco_det": "visual_grounding_det_coco",
    }
    return f"{prefixes.get(name, name)}_{scene:012}.npz"


def _write_regions(dataset: SceneDataset, scenes: Iterable[int], folder: Path) -> None:
    """Write annotated boxes if the database's name contains `_gt`, else detected ones."""
    detected = dataset.annotated if "_gt" in folder.name else dataset.detected

    def images() -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
        for number in scenes:
            detections = detected[number]
            corners = detections.boxes / IMAGE_SIDE
            yield (
                image_name(folder.name, number),
                {
                    "features": detections.features,
                    "norm_bb": np.concatenate([corners, corners[:, 2:] - corners[:, :2]], axis=1),
                    "conf": detections.confidence,
                    "soft_labels": detections.classes,
                },
            )

    write_image_db(folder, images(), rule=box_rule(folder.name))


def _write_texts(dataset: SceneDataset, share: SplitShare, folder: Path) -> None:
    records: Iterator[_Record]
    refcoco_files = None
    if share.task == "vcr":
        records = _vcr_records(dataset, share)
    elif share.task == "refcoco":
        records, refcoco_files = _expression_records(dataset, share), _refcoco_files(dataset, share)
    else:
        records = (
            (str(example.example_id), _record(share, example))
            for example in examples_of(dataset, share)
        )
    write_text_db(folder, records, meta=_META, refcoco_files=refcoco_files)


def _image_names(files: SplitFiles, scenes: Iterable[int]) -> list[str]:
    return [image_name(database, scene) for scene in scenes for database in files.images]


def _record(share: SplitShare, example: SceneExample) -> dict[str, Any]:
    names = _image_names(share.files, example.scenes)
    record: dict[str, Any] = {"input_ids": encode_text(example.text), "img_fname": names[0]}
    if share.task == "nlvr2":
        (answer,) = example.scores
        return record | {"img_fname": names, "target": NLVR2_ANSWERS.index(answer)}
    if example.scores:
        labels = ANSWER_LISTS.get(share.task) or FORMAT.layouts[share.task].answer_names
        targets = [labels.index(answer) for answer in example.scores]
        record["target"] = {"labels": targets, "scores": list(example.scores.values())}
    return record


def _vcr_records(dataset: SceneDataset, share: SplitShare) -> Iterator[_Record]:
    for number, item in enumerate(dataset.vcr_items[share.split]):
        yield (
            f"{share.split}-{number}",
            {
                "input_ids": encode_text(item.question),
                "input_ids_as": [encode_text(text) for text in item.answers],
                "input_ids_rs": [encode_text(text) for text in item.reasons],
                "qa_target": item.answer,
                "qar_target": item.reason,
                "img_fname": _image_names(share.files, [item.scene]),
            },
        )


def _expression_records(dataset: SceneDataset, share: SplitShare) -> Iterator[_Record]:
    counts: Counter[int] = Counter()
    for expression in dataset.expressions[share.split]:
        number = SceneExample(
            expression.text, (expression.scene,), index=counts[expression.scene]
        ).example_id
        counts[expression.scene] += 1
        thing = dataset.scenes[expression.scene].things[expression.thing]
        yield (
            str(number),
            {
                "input_ids": encode_text(expression.text),
                "img_fname": _image_names(share.files, [expression.scene])[0],
                "sent_id": number,
                "ref_id": number,
                "image_id": expression.scene,
                "ann_id": _annotation_id(expression.scene, expression.thing),
                "bbox": _bbox(thing),
            },
        )


def _refcoco_files(dataset: SceneDataset, share: SplitShare) -> dict[str, Any]:
    """Build the JSON files of RefCOCO+'s database; each expression is a separate reference."""
    refs = [
        {
            "ref_id": record["ref_id"],
            "sent_ids": [record["sent_id"]],
            "image_id": record["image_id"],
            "ann_id": record["ann_id"],
        }
        for _, record in _expression_records(dataset, share)
    ]
    images, annotations = [], []
    for scene in share.scenes:
        things = dataset.scenes[scene].things
        ids = [_annotation_id(scene, thing) for thing in range(len(things))]
        images.append({"id": scene, "width": IMAGE_SIDE, "height": IMAGE_SIDE, "ann_ids": ids})
        for number, thing in zip(ids, things, strict=True):
            annotation = {"id": number, "image_id": scene, "category_id": thing.shape}
            annotations.append(annotation | {"bbox": _bbox(thing)})
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES)]
    return {"refs": refs, "annotations": annotations, "images": images, "categories": categories}


def _annotation_id(scene: int, thing: int) -> int:
    return 100 * scene + thing


def _bbox(thing: Thing) -> list[float]:
    """Return x, y, w, h in pixels."""
    x1, y1, x2, y2 = thing.corners
    return [x1, y1, x2 - x1, y2 - y1]
