"""easy-VQA (Zhou 2019): images of one coloured shape on a pale background, and questions on them.

The folder has `train` and `test`, each with `questions.json` (a list of [question, answer, image
number]) and `images/NUMBER.png`, RGB and all of one size. All results depend only on the
folder.
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

from trainables.errors import DataError, is_damage

YES_NO_ANSWERS = ("yes", "no")
SHAPE_ANSWERS = ("circle", "rectangle", "triangle")
COLOR_ANSWERS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
ALL_ANSWERS = (*YES_NO_ANSWERS, *SHAPE_ANSWERS, *COLOR_ANSWERS)

PAD_ID = 0
UNKNOWN_ID = 1
CLS_ID = 2
SEP_ID = 3
GRID_SIZE = 1
"""Cells per side of the grid of regions; 1 is the full image. After 400 steps of 128 examples
UNITER tiny reached 93 to 96 % with 1, and 88 to 95 % with 2, where a step also takes 15 %
longer."""
_ADVICE = "give the folder `data` of the easy-vqa package (pip install easy-vqa)"

QuestionSplitName: TypeAlias = Literal["train", "test"]
_Ints: TypeAlias = NDArray[np.int64]
_Floats: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSplit:
    """Q questions on M images of side S."""

    questions: tuple[str, ...]
    answers: _Ints
    """(Q,): indices into ALL_ANSWERS."""
    image: _Ints
    """(Q,): index of each question's image in `images`."""
    images: NDArray[np.uint8]
    """(M, S, S, 3), RGB."""


def read_questions(folder: Path, name: QuestionSplitName) -> QuestionSplit:
    """Decode one split; 4,000 images take about 2 s. Raises DataError if a file is missing or
    malformed."""
    file = folder / name / "questions.json"
    entries = _entries(file)
    unknown = {answer for _, answer, _ in entries} - set(ALL_ANSWERS)
    if unknown:
        raise DataError(
            f"{file}: unknown answer {min(unknown)!r}; answers: {', '.join(ALL_ANSWERS)}"
        )
    image_numbers = sorted({number for _, _, number in entries})
    image_index = {number: index for index, number in enumerate(image_numbers)}
    images = [_pixels(folder / name / "images" / f"{number}.png") for number in image_numbers]
    if len({image.shape for image in images}) > 1:
        raise DataError(f"{folder / name / 'images'}: the images differ in size; {_ADVICE}")
    return QuestionSplit(
        questions=tuple(question for question, _, _ in entries),
        answers=np.array([ALL_ANSWERS.index(answer) for _, answer, _ in entries], dtype=np.int64),
        image=np.array([image_index[number] for _, _, number in entries], dtype=np.int64),
        images=np.stack(images),
    )


def split_words(question: str) -> list[str]:
    """Split into lower-case words, without the question mark that ends every question."""
    return question.lower().rstrip("?").split()


def build_vocabulary(questions: Iterable[str]) -> dict[str, int]:
    """Return word -> id, in alphabetical order after the special tokens; the train split has 26
    words."""
    words = sorted({word for question in set(questions) for word in split_words(question)})
    return {word: index for index, word in enumerate(words, start=SEP_ID + 1)}


def encode_questions(
    questions: Sequence[str], vocab: dict[str, int]
) -> tuple[_Ints, NDArray[np.bool_]]:
    """Return the ids of [CLS] words [SEP] (Q, T), padded to the longest, and their mask (Q, T)."""
    ids = {
        q: [CLS_ID, *(vocab.get(word, UNKNOWN_ID) for word in split_words(q)), SEP_ID]
        for q in set(questions)
    }
    table = np.full((len(questions), max(map(len, ids.values()))), PAD_ID, dtype=np.int64)
    for row, question in zip(table, questions, strict=True):
        row[: len(ids[question])] = ids[question]
    return table, table != PAD_ID


def object_boxes(images: NDArray[np.uint8]) -> _Ints:
    """Return the boxes (M, 4) of the objects: x1, y1, x2, y2 in pixels, ends exclusive.

    The background is the median colour of the image's border, since the object covers less than
    half of it. A pixel belongs to the object if it differs by more than 40 levels, summed over the
    channels; this excludes its blurred edge.
    """
    border = np.concatenate(
        [images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1
    )
    background = np.median(border, axis=1).astype(np.int16)[:, None, None, :]
    differs = np.abs(images.astype(np.int16) - background).sum(axis=-1) > 40
    (x1, x2), (y1, y2) = _extent(differs.any(axis=1)), _extent(differs.any(axis=2))
    return np.stack([x1, y1, x2, y2], axis=1)


def region_boxes(images: NDArray[np.uint8]) -> _Ints:
    """Return (M, 1 + GRID_SIZE ** 2, 4) in pixels: the object's box, then the grid's cells."""
    count, side = images.shape[:2]
    edges = [side * cell // GRID_SIZE for cell in range(GRID_SIZE + 1)]
    cells = [(x1, y1, x2, y2) for y1, y2 in pairwise(edges) for x1, x2 in pairwise(edges)]
    grid = np.broadcast_to(np.array(cells), (count, len(cells), 4))
    return np.concatenate([object_boxes(images)[:, None], grid], axis=1)


def crops(images: NDArray[np.uint8], boxes: _Ints, region_dim: int) -> NDArray[np.uint8]:
    """Return the regions `boxes` (M, N, 4) of the images (M, S, S, 3), resized to s by s pixels:
    (M, N, s * s, 3), with the largest s for which s * s * 3 <= region_dim.

    Resizing is antialiased: the outermost pixels of a crop include a little of its surroundings.
    """
    side = isqrt(region_dim // 3)
    out = np.empty((*boxes.shape[:2], side * side, 3), dtype=np.uint8)
    for index, (pixels, image_boxes) in enumerate(zip(images, boxes.tolist(), strict=True)):
        image = Image.fromarray(pixels)
        for region, box in enumerate(image_boxes):
            crop = image.resize((side, side), Image.Resampling.BILINEAR, box=tuple(box))
            out[index, region] = np.asarray(crop).reshape(-1, 3)
    return out


def shrink(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize images (M, S, S, 3) to (M, side, side, 3); return smaller ones unchanged."""
    count, size = images.shape[:2]
    if size <= side:
        return images
    full_box = np.broadcast_to(np.array([0, 0, size, size]), (count, 1, 4))
    return crops(images, full_box, 3 * side * side).reshape(count, side, side, 3)


def normalised_boxes(boxes: _Ints, side: int) -> _Floats:
    """Turn boxes in pixels (M, N, 4) into (M, N, 7): x1, y1, x2, y2, w, h over the side, and the
    area w * h."""
    x1, y1, x2, y2 = np.moveaxis(boxes.astype(np.float32) / side, -1, 0)
    w, h = x2 - x1, y2 - y1
    return np.stack([x1, y1, x2, y2, w, h, w * h], axis=-1)


def _entries(file: Path) -> list[tuple[str, str, int]]:
    try:
        loaded: Any = json.loads(file.read_text(encoding="utf-8"))
        entries = [(str(text), str(answer), int(number)) for text, answer, number in loaded]
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {_ADVICE}") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{file}: not a list of [question, answer, image number] ({error}); {_ADVICE}"
        ) from error
    if not entries:
        raise DataError(f"{file}: has no questions; {_ADVICE}")
    return entries


def _pixels(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {_ADVICE}") from None
    except OSError as error:
        raise DataError(
            f"{file}: cannot be decoded ({error}); {_ADVICE}", repeats=is_damage(error)
        ) from error


def _extent(mask: NDArray[np.bool_]) -> tuple[_Ints, _Ints]:
    """Return the index of the first True of each row, and one past the last; for a row without
    any, the full row."""
    any_true = mask.any(axis=1)
    first = np.where(any_true, mask.argmax(axis=1), 0)
    last = np.where(any_true, mask.shape[1] - mask[:, ::-1].argmax(axis=1), mask.shape[1])
    return first.astype(np.int64), last.astype(np.int64)
