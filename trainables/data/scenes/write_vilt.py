"""Scenes as ViLT's tables, and METER's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from trainables.data.formats.vilt.arrow import write_table
from trainables.data.formats.vilt.reader import KINDS
from trainables.data.scenes import render
from trainables.data.scenes.dataset import ANSWERS, Book, Item, Job, Share, items_of, shares
from trainables.data.scenes.vocabulary import write_vocabulary
from trainables.data.schema.layouts import LAYOUTS
from trainables.seeds import Chance

_Picture: TypeAlias = Callable[[int], bytes]
"""Of a scene, encoded."""


def jobs(book: Book) -> Iterator[Job]:
    @cache  # drawing is the dearest step, and up to four tables show a scene
    def picture(scene: int) -> bytes:
        chance = Chance(book.seed, "picture", scene)
        return render.png(render.picture(book.scenes[scene], book.difficulty, chance))

    for share in shares(book, "vilt"):
        yield Job(share.part.texts, len(share.scenes), partial(_table, book, share, picture))
    yield Job(LAYOUTS["vqa", "vilt"].vocabulary, 0, write_vocabulary)


def _table(book: Book, share: Share, picture: _Picture, file: Path) -> None:
    """One row for a scene, or a pair of them, with all that is said of it."""

    def rows() -> Iterator[dict[str, Any]]:
        for scenes, said in groupby(items_of(book, share), key=lambda item: item.scenes):
            items = list(said)
            shown = [picture(scene) for scene in scenes]
            images = {f"image_{n}": each for n, each in enumerate(shown)}
            yield (images if len(shown) > 1 else {"image": shown[0]}) | _ROWS[share.task](
                book, share, items
            )

    write_table(file, KINDS[share.task], rows())


def _questions(book: Book, share: Share, items: Sequence[Item]) -> dict[str, Any]:
    labels = ANSWERS[share.task]
    return {
        "questions": [item.text for item in items],
        "answers": [list(item.scores) for item in items],
        "answer_labels": [[labels.index(answer) for answer in item.scores] for item in items],
        "answer_scores": [list(item.scores.values()) for item in items],
        "image_id": items[0].scenes[0],
        "question_id": [item.number for item in items],
        "split": share.split,
    }


def _statements(book: Book, share: Share, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "questions": [item.text for item in items],
        "answers": [answer for item in items for answer in item.scores],
        "identifier": f"{share.split}-{items[0].scenes[0]}",
    }


def _hypotheses(book: Book, share: Share, items: Sequence[Item]) -> dict[str, Any]:
    """METER's labels have an order of their own."""
    names = LAYOUTS[share.task, "vilt"].names
    premise = book.premises[items[0].scenes[0]]
    return {
        "sentences": [[premise, item.text] for item in items],
        "labels": [names.index(label) for item in items for label in item.scores],
    }


def _captions(book: Book, share: Share, items: Sequence[Item]) -> dict[str, Any]:
    return {
        "caption": [item.text for item in items],
        "image_id": f"{items[0].scenes[0]}.png",
        "split": share.split,
    }


_ROWS: dict[str, Callable[[Book, Share, Sequence[Item]], dict[str, Any]]] = {
    "vqa": _questions,
    "nlvr2": _statements,
    "snli_ve": _hypotheses,
    "retrieval": _captions,
}
