"""A simulated object detector: boxes, confidences, class probabilities and features of scenes.

It misses things, is uncertain about shapes and colours (more so for small things), shifts boxes,
detects some things twice and places boxes where there is nothing. The features have the same
uncertainty: they are a fixed random layer over the probabilities, so an error in the soft labels is
an error in the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainables.data.scenes.rng import normal
from trainables.data.scenes.world import (
    BOX_COLOR,
    BOX_SHAPE,
    COLORS,
    IMAGE_SIDE,
    SHAPES,
    Scene,
    Thing,
)
from trainables.seeds import Rng

_Floats = NDArray[np.float32]

FEATURE_DIM = 192
NUM_CLASSES = 1 + BOX_SHAPE * BOX_COLOR + 1
"""Background, each shape in each colour, and the box."""
_SIMILAR_SHAPES = {
    ("square", "diamond"),
    ("cross", "star"),
    ("square", "box"),
    ("triangle", "star"),
}
_SIMILAR_COLORS = {("red", "orange"), ("orange", "yellow"), ("blue", "purple"), ("purple", "gray")}
"""Pairs that the detector confuses more easily."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """N regions of one image, the most confident first."""

    boxes: _Floats
    """(N, 4): x1, y1, x2, y2 in pixels."""
    features: NDArray[np.float16]
    """(N, FEATURE_DIM)"""
    classes: _Floats
    """(N, NUM_CLASSES): probabilities, class 0 the background."""
    confidence: _Floats
    """(N,), 0 to 1."""
    shapes: NDArray[np.int64]
    """(N,): the most probable shapes, as indices into SHAPES."""
    colors: NDArray[np.int64]
    """(N,): the most probable colours, as indices into COLORS."""


def detect(scenes: Sequence[Scene], difficulty: float, *seed: str | int) -> list[Detections]:
    """Return the regions found in each scene, with missed, repeated and false boxes. The error
    rates and the noise grow with `difficulty` (0 to 1)."""
    rng = Rng(*seed, "detector")
    miss_rate, repeat_rate = 0.01 + 0.06 * difficulty, 0.1 * difficulty
    draws = rng.uniform(len(scenes), 2, max(len(scene.things) for scene in scenes))
    num_false = 1 + rng.uniform(len(scenes)) * (1 + 3 * difficulty)
    sources: list[list[Thing | None]] = []
    for scene, (miss_draws, repeat_draws), count in zip(
        scenes, draws.tolist(), num_false.tolist(), strict=True
    ):
        detected: list[Thing | None] = []
        for thing, miss, repeat in zip(scene.things, miss_draws, repeat_draws, strict=False):
            is_found = int(miss >= miss_rate * (1 if thing.big else 2))
            detected += [thing] * (is_found * (1 + int(repeat < repeat_rate)))
        sources.append(detected + [None] * int(count))
    return _detections(sources, difficulty, 0.6 + 1.2 * difficulty, rng, ranked=True)


def annotated(scenes: Sequence[Scene], difficulty: float, *seed: str | int) -> list[Detections]:
    """Return the true boxes of all things of each scene, in its order, with the detector's
    predictions."""
    sources: list[list[Thing | None]] = [list(scene.things) for scene in scenes]
    return _detections(sources, difficulty, 0.0, Rng(*seed, "annotated"), ranked=False)


def _detections(
    sources: list[list[Thing | None]],
    difficulty: float,
    shift: float,
    rng: Rng,
    *,
    ranked: bool,
) -> list[Detections]:
    """Predict boxes and classes, given the thing of each box (None for a false box). `shift` is the
    standard deviation of the error of a box's sides, in pixels."""
    flat = [thing for things in sources for thing in things]
    real = np.array([thing is not None for thing in flat])
    boxes = _boxes(flat, shift, rng)
    noise = np.array([0.8 if thing and thing.big else 1.0 for thing in flat]) * (
        0.4 + 1.1 * difficulty
    )
    shapes = _probabilities(
        [t.shape if t else -1 for t in flat], SHAPES, _SIMILAR_SHAPES, noise, rng
    )
    colors = _probabilities(
        [t.color if t else -1 for t in flat], COLORS, _SIMILAR_COLORS, noise, rng
    )
    striped = np.array([(1.0 if t.striped else -1.0) if t else 0.0 for t in flat])
    striped = np.tanh(2 * striped + noise * normal(rng, len(flat)))
    objectness = 1 / (1 + np.exp(-(4 * real - 2.5 + noise * normal(rng, len(flat)))))
    classes = _classes(shapes, colors, objectness)
    confidence = objectness * (0.5 + 0.5 * classes[:, 1:].max(axis=1))
    features = _features(shapes, colors, striped, objectness, boxes, difficulty, rng)
    ends = np.cumsum([len(things) for things in sources])
    out = []
    for end, things in zip(ends.tolist(), sources, strict=True):
        rows = np.arange(end - len(things), end)
        if ranked:
            rows = rows[np.argsort(-confidence[rows], kind="stable")]
        out.append(
            Detections(
                boxes=boxes[rows].astype(np.float32),
                features=features[rows].astype(np.float16),
                classes=classes[rows].astype(np.float32),
                confidence=confidence[rows].astype(np.float32),
                shapes=shapes[rows].argmax(axis=1),
                colors=colors[rows].argmax(axis=1),
            )
        )
    return out


def _boxes(flat: list[Thing | None], shift: float, rng: Rng) -> NDArray[np.float64]:
    """Return boxes (N, 4); false boxes are anywhere, 8 to 40 px wide and high."""
    side = 8 + 32 * rng.uniform(len(flat), 2) ** 2
    start = rng.uniform(len(flat), 2) * (IMAGE_SIDE - side)
    boxes = np.concatenate([start, start + side], axis=1)
    for row, thing in enumerate(flat):
        if thing is not None:
            boxes[row] = thing.corners
    moved: NDArray[np.float64] = np.clip(boxes + shift * normal(rng, len(flat), 4), 0, IMAGE_SIDE)
    # Keep the corners in order; the smallest thing is 9 px wide.
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    return moved


def _probabilities(
    truth: list[int],
    names: Sequence[str],
    similar: set[tuple[str, str]],
    noise: NDArray[np.float64],
    rng: Rng,
) -> NDArray[np.float64]:
    """Return (N, names): the softmax of 4 at the truth, 1 at similar names, and noise of standard
    deviation `noise`."""
    size = len(names)
    logits = np.zeros((size + 1, size))
    logits[:size] = 4 * np.eye(size)
    for a, b in similar:
        i, j = names.index(a), names.index(b)
        logits[i, j] = logits[j, i] = 1.0
    noisy = logits[truth] + noise[:, None] * normal(rng, len(truth), size)
    weight = np.exp(noisy)
    probabilities: NDArray[np.float64] = weight / weight.sum(axis=1, keepdims=True)
    return probabilities


def _classes(
    shapes: NDArray[np.float64], colors: NDArray[np.float64], objectness: NDArray[np.float64]
) -> NDArray[np.float64]:
    pairs = shapes[:, :BOX_SHAPE, None] * colors[:, None, :BOX_COLOR]
    box = (shapes[:, BOX_SHAPE] * colors[:, BOX_COLOR])[:, None]
    kinds = np.concatenate([pairs.reshape(len(shapes), -1), box], axis=1)
    kinds *= (objectness / kinds.sum(axis=1))[:, None]
    return np.concatenate([1 - objectness[:, None], kinds], axis=1)


def _features(
    shapes: NDArray[np.float64],
    colors: NDArray[np.float64],
    striped: NDArray[np.float64],
    objectness: NDArray[np.float64],
    boxes: NDArray[np.float64],
    difficulty: float,
    rng: Rng,
) -> NDArray[np.float64]:
    """Return (N, FEATURE_DIM), non-negative as after a detector's last ReLU."""
    size = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) / 12 - 1
    rest = np.stack([objectness, striped * objectness, size], axis=1)
    probabilities = np.concatenate([shapes, colors], axis=1) * objectness[:, None]
    hidden = np.concatenate([rest, 2 * probabilities], axis=1) @ _layer(probabilities.shape[1] + 3)
    noise = (0.2 + 0.4 * difficulty) * normal(rng, *hidden.shape)
    return np.maximum(hidden + noise, 0.0)


@lru_cache
def _layer(width: int) -> NDArray[np.float64]:
    """Return the detector's weights, which are the same for every dataset, so that models transfer
    between datasets."""
    return normal(Rng("scenes", "detector's weights"), width, FEATURE_DIM) * 0.7
