"""easy-VQA (Zhou 2019): one coloured shape on a pale background, and questions about it.

The folder holds `train` and `test`, each with `questions.json` (a list of [question, answer, image
number]) and `images/NUMBER.png`, RGB of one size. Everything is a pure function of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.errors import DataError

YES_NO = ("yes", "no")
SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
ANSWERS = (*YES_NO, *SHAPES, *COLORS)

PAD, UNKNOWN, CLS, SEP = range(4)
GRID = 1
"""Cells per side of the grid of regions; 1 is the whole image. UNITER tiny after 400 steps of 128
was at 93 to 96 % with 1, at 88 to 95 % with 2, whose steps also cost 15 % more."""
_CURE = "give the folder `data` of the easy-vqa package (pip install easy-vqa)"

SplitName: TypeAlias = Literal["train", "test"]
Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Q questions on M images of side S."""

    questions: tuple[str, ...]
    answers: Ints
    """(Q,): indices into ANSWERS."""
    image: Ints
    """(Q,): which image each question is about."""
    images: NDArray[np.uint8]
    """(M, S, S, 3)."""


def read_split(folder: Path, name: SplitName) -> Split:
    """Decode one split; 4,000 images take about 2 s. DataError for what is missing or malformed."""
    file = folder / name / "questions.json"
    entries = _entries(file)
    unknown = {answer for _, answer, _ in entries} - set(ANSWERS)
    if unknown:
        raise DataError(f"{file}: no such answer {min(unknown)!r}; answers: {', '.join(ANSWERS)}")
    numbers = sorted({number for _, _, number in entries})
    place = {number: index for index, number in enumerate(numbers)}
    images = [_pixels(folder / name / "images" / f"{number}.png") for number in numbers]
    if len({image.shape for image in images}) > 1:
        raise DataError(f"{folder / name / 'images'}: the images differ in size; {_CURE}")
    return Split(
        questions=tuple(question for question, _, _ in entries),
        answers=np.array([ANSWERS.index(answer) for _, answer, _ in entries], dtype=np.int64),
        image=np.array([place[number] for _, _, number in entries], dtype=np.int64),
        images=np.stack(images),
    )


def words(question: str) -> list[str]:
    """Lower-case words; the question mark that ends every question is dropped."""
    return question.lower().rstrip("?").split()


def vocabulary(questions: Iterable[str]) -> dict[str, int]:
    """Word -> id, in alphabetical order after the special tokens; 26 words in the train split."""
    found = sorted({word for question in set(questions) for word in words(question)})
    return {word: index for index, word in enumerate(found, start=SEP + 1)}


def encode(questions: Sequence[str], vocab: dict[str, int]) -> tuple[Ints, NDArray[np.bool_]]:
    """[CLS] words [SEP] as ids (Q, T), padded to the longest, and where tokens are (Q, T)."""
    ids = {q: [CLS, *(vocab.get(word, UNKNOWN) for word in words(q)), SEP] for q in set(questions)}
    table = np.full((len(questions), max(map(len, ids.values()))), PAD, dtype=np.int64)
    for row, question in zip(table, questions, strict=True):
        row[: len(ids[question])] = ids[question]
    return table, table != PAD


def object_boxes(images: NDArray[np.uint8]) -> Ints:
    """(M, 4): x1, y1, x2, y2 in pixels, ends exclusive, around what is not background.

    The background is the median colour of the image's border, which the object covers less than
    half of; 40 levels, summed over the channels, separate the object from its blurred edge.
    """
    border = np.concatenate(
        [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1
    )
    background = np.median(border, axis=1).astype(np.int16)[:, None, None, :]
    differs = np.abs(images.astype(np.int16) - background).sum(axis=-1) > 40
    (x1, x2), (y1, y2) = _extent(differs.any(axis=1)), _extent(differs.any(axis=2))
    return np.stack([x1, y1, x2, y2], axis=1)


def region_boxes(images: NDArray[np.uint8]) -> Ints:
    """(M, 1 + GRID * GRID, 4): the object's box, then the cells of the grid, in pixels."""
    count, side = images.shape[:2]
    edges = [side * cell // GRID for cell in range(GRID + 1)]
    cells = [(x1, y1, x2, y2) for y1, y2 in pairwise(edges) for x1, x2 in pairwise(edges)]
    grid = np.broadcast_to(np.array(cells), (count, len(cells), 4))
    return np.concatenate([object_boxes(images)[:, None], grid], axis=1)


def crops(images: NDArray[np.uint8], boxes: Ints, region_dim: int) -> NDArray[np.uint8]:
    """(M, N, s * s, 3): each region resized to s by s pixels, s * s * 3 <= region_dim.

    Antialiased: a crop's outermost pixels take in a little of what lies just outside its box.
    """
    side = isqrt(region_dim // 3)
    out = np.empty((*boxes.shape[:2], side * side, 3), dtype=np.uint8)
    for index, (pixels, around) in enumerate(zip(images, boxes.tolist(), strict=True)):
        image = Image.fromarray(pixels)
        for region, box in enumerate(around):
            crop = image.resize((side, side), Image.Resampling.BILINEAR, box=tuple(box))
            out[index, region] = np.asarray(crop).reshape(-1, 3)
    return out


def shrunk(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(M, S, S, 3) -> (M, side, side, 3); as they are where they are no larger than that."""
    count, own = images.shape[:2]
    if own <= side:
        return images
    whole = np.broadcast_to(np.array([0, 0, own, own]), (count, 1, 4))
    return crops(images, whole, 3 * side * side).reshape(count, side, side, 3)


def normalised_boxes(boxes: Ints, side: int) -> Floats:
    """(M, N, 4) pixels -> (M, N, 7): x1, y1, x2, y2, w, h over the side, and the area w * h."""
    x1, y1, x2, y2 = np.moveaxis(boxes.astype(np.float32) / side, -1, 0)
    w, h = x2 - x1, y2 - y1
    return np.stack([x1, y1, x2, y2, w, h, w * h], axis=-1)


def _entries(file: Path) -> list[tuple[str, str, int]]:
    try:
        loaded: Any = json.loads(file.read_text(encoding="utf-8"))
        entries = [(str(text), str(answer), int(number)) for text, answer, number in loaded]
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {_CURE}") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{file}: not a list of [question, answer, image number] ({error}); {_CURE}"
        ) from error
    if not entries:
        raise DataError(f"{file}: holds no question; {_CURE}")
    return entries


def _pixels(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {_CURE}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be decoded ({error}); {_CURE}") from error


def _extent(seen: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """First and one past the last True of each row; the whole row where there is none."""
    some = seen.any(axis=1)
    first = np.where(some, seen.argmax(axis=1), 0)
    last = np.where(some, seen.shape[1] - seen[:, ::-1].argmax(axis=1), seen.shape[1])
    return first.astype(np.int64), last.astype(np.int64)
