"""Write scenes as LXMERT's files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trainables.data.formats.json_stream import write_list
from trainables.data.formats.lxmert import FORMAT
from trainables.data.formats.lxmert.tsv import write_answers, write_tsv
from trainables.data.scenes.dataset import (
    ANSWER_LISTS,
    SceneDataset,
    SceneExample,
    SplitShare,
    WriteJob,
    examples_of,
    split_shares,
)
from trainables.data.scenes.vocabulary import write_vocabulary
from trainables.data.scenes.world import IMAGE_SIDE
from trainables.data.schema.layouts import NLVR2_ANSWERS


def jobs(dataset: SceneDataset) -> Iterator[WriteJob]:
    images: dict[str, set[int]] = defaultdict(set)
    for share in split_shares(dataset, "lxmert"):
        images[share.files.images[0]].update(share.scenes)
        yield WriteJob(
            share.files.texts, len(share.scenes), partial(_write_entries, dataset, share)
        )
    for path, scenes in images.items():
        yield WriteJob(path, len(scenes), partial(_write_regions, dataset, sorted(scenes)))
    for task, answers in ANSWER_LISTS.items():
        folder = str(Path(FORMAT.layouts[task].answers_file).parent)
        yield WriteJob(folder, 0, partial(write_answers, answers=answers))
    yield WriteJob(FORMAT.layouts["vqa"].vocabulary_file, 0, write_vocabulary)


def _image_name(scene: int) -> str:
    return f"scene_{scene:06}"


def _write_entries(dataset: SceneDataset, share: SplitShare, file: Path) -> None:
    write_list(file, (_entry(share, example) for example in examples_of(dataset, share)))


def _entry(share: SplitShare, example: SceneExample) -> dict[str, Any]:
    if share.task != "nlvr2":
        entry = {"question_id": example.example_id, "img_id": _image_name(example.scenes[0])}
        return {**entry, "sent": example.text, "label": dict(example.scores)}
    left, right = example.scenes
    (answer,) = example.scores
    return {
        "identifier": f"{share.split}-{left}-{example.index}",
        "img0": _image_name(left),
        "img1": _image_name(right),
        "sent": example.text,
        "label": NLVR2_ANSWERS.index(answer),
    }


def _write_regions(dataset: SceneDataset, scenes: Iterable[int], file: Path) -> None:
    """Write all detections of each image; the published files have 36 boxes per image."""

    def images() -> Iterator[dict[str, Any]]:
        for number in scenes:
            detections = dataset.detected[number]
            yield {
                "img_id": _image_name(number),
                "img_h": IMAGE_SIDE,
                "img_w": IMAGE_SIDE,
                "objects_id": detections.shapes,
                "objects_conf": detections.confidence,
                "attrs_id": detections.colors,
                "attrs_conf": detections.confidence,
                "boxes": detections.boxes,
                "features": detections.features,
            }

    write_tsv(file, images())
