"""Small in-memory data for tasks on captions: regions of some classes, texts with their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.schema.examples import Data, Pixels, Ragged, Regions, Split, VocabularyInfo
from trainables.models.base import Backbone
from trainables.spec import ModelSpec, Options, Scalar, TaskSpec
from trainables.tasks.base import TaskSource
from trainables.tasks.common import PublishedTask
from trainables.tasks.pretraining import PretrainingTask
from trainables.tasks.refcoco import RefCocoTask
from trainables.tasks.retrieval import RetrievalTask
from trainables.training.start import init_backbone

CLS, SEP, MASK, WORD = 1, 2, 3, 20
CLASSES, DIM = 8, 192
VOCABULARY = VocabularyInfo(pad=0, cls=CLS, sep=SEP, mask=MASK, unknown=4, first=5, size=128)
WIDTH, HEIGHT = 640, 480
_TASK_CLASSES: dict[str, type[PublishedTask]] = {
    "refcoco": RefCocoTask,
    "retrieval": RetrievalTask,
    "pretraining": PretrainingTask,
}
_UNUSED_SOURCE = TaskSource(Path("data"), Path("cache"))


def caption_split(
    classes: Sequence[Sequence[int]], owners: Sequence[int], *, seed: int = 0, pixels: bool = False
) -> Split:
    """Image m shows the classes `classes[m]`, one region each; caption e belongs to image
    `owners[e]` and names its classes in order."""
    texts = [[CLS, *(WORD + each for each in classes[owner]), SEP] for owner in owners]
    return Split(
        keys=[str(e) for e in range(len(owners))],
        texts=Ragged.from_rows(texts, np.int32),
        images=np.array(owners, np.int32)[:, None],
        labels=Ragged.from_rows([[]] * len(owners), np.int32),
        scores=Ragged.from_rows([[]] * len(owners), np.float32),
        image_data=_pixels(classes) if pixels else _regions(classes, seed),
    )


def draw_classes(images: int, seed: int, max_classes: int = 4) -> list[list[int]]:
    """Draw 2 to `max_classes` different classes for each image."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, max_classes + 1, size=images)
    return [rng.permutation(CLASSES)[:count].tolist() for count in counts]


def caption_data(images: int, each: int, *, pixels: bool = False) -> Data:
    """Train and held-out splits of `images` images with `each` captions per image; captions of an
    image are not adjacent."""
    splits = [
        caption_split(draw_classes(images, seed), [*range(images)] * each, seed=seed, pixels=pixels)
        for seed in (0, 1)
    ]
    return Data(train=splits[0], held_out=splits[1], answers=(), vocabulary=VOCABULARY)


def referring_data(images: int) -> Data:
    """Each expression names the class of one region. Detected boxes of the held-out split are the
    true ones."""
    train, held_out = (_referring(images, seed) for seed in (0, 1))
    return Data(train=train, held_out=held_out, answers=(), vocabulary=VOCABULARY)


def backbone(architecture: str, size: str = "tiny", **overrides: int) -> Backbone:
    given = tuple(sorted(overrides.items()))
    return init_backbone(ModelSpec(architecture=architecture, size=size, overrides=given), 0, 0.0)


def build_task(name: str, data: Data, model: Backbone, **options: Scalar) -> Any:
    sorted_options: Options = tuple(sorted(options.items()))
    spec = TaskSpec(name=name, data="d", options=sorted_options)
    return _TASK_CLASSES[name](data, _UNUSED_SOURCE, spec, model)


def _referring(images: int, seed: int) -> Split:
    image_classes = draw_classes(images, seed)
    split = caption_split(image_classes, range(images), seed=seed)
    targets = [m % len(classes) for m, classes in enumerate(image_classes)]
    boxes = split.image_data.boxes.rows(np.arange(images))  # type: ignore[union-attr]
    scores = [
        [*(each[t][[0, 1, 4, 5]] * [WIDTH, HEIGHT, WIDTH, HEIGHT]), WIDTH, HEIGHT]
        for each, t in zip(boxes, targets, strict=True)
    ]
    texts = [
        [CLS, WORD + classes[t], SEP] for classes, t in zip(image_classes, targets, strict=True)
    ]
    return Split(
        keys=split.keys,
        texts=Ragged.from_rows(texts, np.int32),
        images=split.images,
        labels=Ragged.from_rows([[t] for t in targets] if seed == 0 else [[]] * images, np.int32),
        scores=Ragged.from_rows(scores, np.float32),
        image_data=split.image_data,
    )


def _regions(image_classes: Sequence[Sequence[int]], seed: int) -> Regions:
    """Adjacent boxes that do not overlap; a class is encoded by 8 of the feature dimensions."""
    rng = np.random.default_rng(seed + 100)
    features, boxes, probabilities = [], [], []
    for classes in image_classes:
        regions = 0.1 * rng.standard_normal((len(classes), DIM))
        soft = np.full((len(classes), CLASSES + 1), 0.02)
        for row, label in enumerate(classes):
            regions[row, 8 * label : 8 * label + 8] += 2
            soft[row, label + 1] = 1 - 0.02 * CLASSES
        features.append(regions)
        probabilities.append(soft)
        left = np.arange(len(classes)) / len(classes)
        boxes.append([[x, 0.1, x + 0.2, 0.6, 0.2, 0.5, 0.1] for x in left])
    return Regions(
        features=Ragged.from_rows(features, np.float16, (DIM,)),
        boxes=Ragged.from_rows(boxes, np.float32, (7,)),
        classes=Ragged.from_rows(probabilities, np.float16, (CLASSES + 1,)),
    )


def _pixels(image_classes: Sequence[Sequence[int]]) -> Pixels:
    """Images of 16 pixel rows, with a stripe 8 pixels wide in the colour of each class."""
    colours = 255 * np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(CLASSES)], np.uint8)
    pixels = []
    for classes in image_classes:
        row = np.repeat(colours[list(classes)], 8, axis=0)
        pixels.append(np.tile(row, (16, 1)))
    sizes = [[16, 8 * len(classes)] for classes in image_classes]
    return Pixels(pixels=Ragged.from_rows(pixels, np.uint8, (3,)), sizes=np.array(sizes, np.int32))
