"""Small data in memory for tasks on captions: regions of some classes, and texts that name them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from trainables.data.schema.examples import Data, Pixels, Ragged, Regions, Split, Vocabulary
from trainables.models.base import Backbone
from trainables.spec import ModelSpec, Options, Scalar, TaskSpec
from trainables.tasks import TASKS
from trainables.training.start import drawn_backbone

CLS, SEP, MASK, WORD = 1, 2, 3, 20
CLASSES, DIM = 8, 192
VOCABULARY = Vocabulary(pad=0, cls=CLS, sep=SEP, mask=MASK, unknown=4, first=5, size=128)
WIDTH, HEIGHT = 640, 480


def pairs(
    shown: Sequence[Sequence[int]], owners: Sequence[int], *, seed: int = 0, pixels: bool = False
) -> Split:
    """Image m shows the classes `shown[m]`, one region each; caption e, of image `owners[e]`,
    names them in order."""
    texts = [[CLS, *(WORD + each for each in shown[owner]), SEP] for owner in owners]
    return Split(
        keys=[str(e) for e in range(len(owners))],
        texts=Ragged.of(texts, np.int32),
        images=np.array(owners, np.int32)[:, None],
        labels=Ragged.of([[]] * len(owners), np.int32),
        scores=Ragged.of([[]] * len(owners), np.float32),
        seen=_painted(shown) if pixels else _regions(shown, seed),
    )


def draw_shown(images: int, seed: int, most: int = 4) -> list[list[int]]:
    """2 to `most` classes for each image, no class twice."""
    chance = np.random.default_rng(seed)
    counts = chance.integers(2, most + 1, size=images)
    return [chance.permutation(CLASSES)[:count].tolist() for count in counts]


def captioned(images: int, each: int, *, pixels: bool = False) -> Data:
    """Train and held-out splits of so many images, `each` captions apiece, not neighbours."""
    splits = [
        pairs(draw_shown(images, seed), [*range(images)] * each, seed=seed, pixels=pixels)
        for seed in (0, 1)
    ]
    return Data(train=splits[0], held_out=splits[1], answers=(), vocabulary=VOCABULARY)


def referring(images: int) -> Data:
    """Each expression names one region's class; held out, a detector's boxes: the true ones."""
    train, held_out = (_referring(images, seed) for seed in (0, 1))
    return Data(train=train, held_out=held_out, answers=(), vocabulary=VOCABULARY)


def backbone(architecture: str, size: str = "tiny", **overrides: int) -> Backbone:
    given = tuple(sorted(overrides.items()))
    return drawn_backbone(ModelSpec(architecture=architecture, size=size, overrides=given), 0, 0.0)


def task_on(name: str, data: Data, model: Backbone, **options: Scalar) -> Any:
    module = import_module(TASKS[name].module)
    given: Options = tuple(sorted(options.items()))
    spec = TaskSpec(name=name, data="d", options=given)
    return module.over(data, spec, model) if name == "retrieval" else module.over(data, spec)


def _referring(images: int, seed: int) -> Split:
    shown = draw_shown(images, seed)
    split = pairs(shown, range(images), seed=seed)
    targets = [m % len(classes) for m, classes in enumerate(shown)]
    boxes = split.seen.boxes.rows(np.arange(images))  # type: ignore[union-attr]
    places = [
        [*(each[t][[0, 1, 4, 5]] * [WIDTH, HEIGHT, WIDTH, HEIGHT]), WIDTH, HEIGHT]
        for each, t in zip(boxes, targets, strict=True)
    ]
    named = [[CLS, WORD + classes[t], SEP] for classes, t in zip(shown, targets, strict=True)]
    return Split(
        keys=split.keys,
        texts=Ragged.of(named, np.int32),
        images=split.images,
        labels=Ragged.of([[t] for t in targets] if seed == 0 else [[]] * images, np.int32),
        scores=Ragged.of(places, np.float32),
        seen=split.seen,
    )


def _regions(shown: Sequence[Sequence[int]], seed: int) -> Regions:
    """Boxes in a row that do not overlap; a class is a place in the features."""
    chance = np.random.default_rng(seed + 100)
    features, boxes, classes = [], [], []
    for present in shown:
        seen = 0.1 * chance.standard_normal((len(present), DIM))
        soft = np.full((len(present), CLASSES + 1), 0.02)
        for place, one in enumerate(present):
            seen[place, 8 * one : 8 * one + 8] += 2
            soft[place, one + 1] = 1 - 0.02 * CLASSES
        features.append(seen)
        classes.append(soft)
        left = np.arange(len(present)) / len(present)
        boxes.append([[x, 0.1, x + 0.2, 0.6, 0.2, 0.5, 0.1] for x in left])
    return Regions(
        features=Ragged.of(features, np.float16, (DIM,)),
        boxes=Ragged.of(boxes, np.float32, (7,)),
        classes=Ragged.of(classes, np.float16, (CLASSES + 1,)),
    )


def _painted(shown: Sequence[Sequence[int]]) -> Pixels:
    """16 rows of pixels, a stripe of 8 x 16 for each region, its colour the class's."""
    colours = 255 * np.array([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(CLASSES)], np.uint8)
    pixels = []
    for present in shown:
        row = np.repeat(colours[list(present)], 8, axis=0)
        pixels.append(np.tile(row, (16, 1)))
    sizes = [[16, 8 * len(present)] for present in shown]
    return Pixels(pixels=Ragged.of(pixels, np.uint8, (3,)), sizes=np.array(sizes, np.int32))
