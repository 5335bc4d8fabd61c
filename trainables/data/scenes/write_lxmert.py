"""Scenes as LXMERT's files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from trainables.data.formats.json_stream import write_list
from trainables.data.formats.lxmert.tsv import write_answers, write_tsv
from trainables.data.scenes.dataset import ANSWERS, Book, Item, Job, Share, items_of, shares
from trainables.data.scenes.vocabulary import write_vocabulary
from trainables.data.scenes.world import SIDE
from trainables.data.schema.layouts import LAYOUTS, YES_NO


def jobs(book: Book) -> Iterator[Job]:
    images: dict[str, set[int]] = defaultdict(set)
    for share in shares(book, "lxmert"):
        images[share.part.images[0]].update(share.scenes)
        yield Job(share.part.texts, len(share.scenes), partial(_entries, book, share))
    for path, numbers in images.items():
        yield Job(path, len(numbers), partial(_regions, book, sorted(numbers)))
    for task, answers in ANSWERS.items():
        folder = str(Path(LAYOUTS[task, "lxmert"].answers).parent)
        yield Job(folder, 0, partial(write_answers, answers=answers))
    yield Job(LAYOUTS["vqa", "lxmert"].vocabulary, 0, write_vocabulary)


def _name(scene: int) -> str:
    return f"scene_{scene:06}"


def _entries(book: Book, share: Share, file: Path) -> None:
    write_list(file, (_entry(share, item) for item in items_of(book, share)))


def _entry(share: Share, item: Item) -> dict[str, Any]:
    if share.task != "nlvr2":
        about = {"question_id": item.number, "img_id": _name(item.scenes[0])}
        return {**about, "sent": item.text, "label": dict(item.scores)}
    left, right = item.scenes
    (answer,) = item.scores
    return {
        "identifier": f"{share.split}-{left}-{item.place}",
        "img0": _name(left),
        "img1": _name(right),
        "sent": item.text,
        "label": YES_NO.index(answer),
    }


def _regions(book: Book, numbers: Iterable[int], file: Path) -> None:
    """All that was detected; the published files have 36 boxes of every image."""

    def images() -> Iterator[dict[str, Any]]:
        for number in numbers:
            seen = book.detected[number]
            yield {
                "img_id": _name(number),
                "img_h": SIDE,
                "img_w": SIDE,
                "objects_id": seen.shapes,
                "objects_conf": seen.confidence,
                "attrs_id": seen.colors,
                "attrs_conf": seen.confidence,
                "boxes": seen.boxes,
                "features": seen.features,
            }

    write_tsv(file, images())
