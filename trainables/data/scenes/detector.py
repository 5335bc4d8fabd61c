"""What an object detector makes of scenes: boxes, confidences, class beliefs and features.

It misses things, doubts shapes and colours (more so of small things), shifts boxes, sees some
things twice and puts boxes where nothing is. Its doubts are in its features too: these are a fixed
random layer over what it believes, so an error in the soft labels is an error in the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainables.data.scenes.rng import normal
from trainables.data.scenes.world import BOX, COLORS, GRAY, SHAPES, SIDE, Scene, Thing
from trainables.seeds import Chance

Floats = NDArray[np.float32]

DIM = 192
"""Of a feature."""
CLASSES = 1 + BOX * GRAY + 1
"""Background, every shape in every colour, and the box."""
_ALIKE = {("square", "diamond"), ("cross", "star"), ("square", "box"), ("triangle", "star")}
_NEAR = {("red", "orange"), ("orange", "yellow"), ("blue", "purple"), ("purple", "gray")}
"""Classes that the detector takes for each other more easily."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """N regions of one image, the most confident first."""

    boxes: Floats
    """(N, 4): x1, y1, x2, y2 in pixels."""
    features: NDArray[np.float16]
    """(N, DIM)"""
    classes: Floats
    """(N, CLASSES): probabilities, class 0 the background."""
    confidence: Floats
    """(N,)"""
    shapes: NDArray[np.int64]
    """(N,): the likeliest, index into SHAPES."""
    colors: NDArray[np.int64]
    """(N,): the likeliest, index into COLORS."""


def detect(scenes: Sequence[Scene], difficulty: float, *seed: str | int) -> list[Seen]:
    """Detected boxes, false ones among them."""
    chance = Chance(*seed, "detector")
    miss, twice = 0.01 + 0.06 * difficulty, 0.1 * difficulty
    draws = chance.uniform(len(scenes), 2, max(len(scene.things) for scene in scenes))
    false = 1 + chance.uniform(len(scenes)) * (1 + 3 * difficulty)
    found: list[list[Thing | None]] = []
    for scene, (missed, doubled), wrong in zip(scenes, draws.tolist(), false.tolist(), strict=True):
        seen: list[Thing | None] = []
        for thing, u, v in zip(scene.things, missed, doubled, strict=False):
            seen += [thing] * (int(u >= miss * (1 if thing.big else 2)) * (1 + int(v < twice)))
        found.append(seen + [None] * int(wrong))
    return _looked_at(found, difficulty, 0.6 + 1.2 * difficulty, chance, ranked=True)


def annotated(scenes: Sequence[Scene], difficulty: float, *seed: str | int) -> list[Seen]:
    """The true boxes of all things in the scene's own order, with what the detector sees there."""
    found: list[list[Thing | None]] = [list(scene.things) for scene in scenes]
    return _looked_at(found, difficulty, 0.0, Chance(*seed, "annotated"), ranked=False)


def _looked_at(
    found: list[list[Thing | None]],
    difficulty: float,
    shift: float,
    chance: Chance,
    *,
    ranked: bool,
) -> list[Seen]:
    """`shift`: standard deviation of a box's sides, in pixels."""
    flat = [thing for things in found for thing in things]
    real = np.array([thing is not None for thing in flat])
    boxes = _boxes(flat, shift, chance)
    doubt = np.array([0.8 if thing and thing.big else 1.0 for thing in flat]) * (
        0.4 + 1.1 * difficulty
    )
    shapes = _belief([t.shape if t else -1 for t in flat], SHAPES, _ALIKE, doubt, chance)
    colors = _belief([t.color if t else -1 for t in flat], COLORS, _NEAR, doubt, chance)
    striped = np.array([(1.0 if t.striped else -1.0) if t else 0.0 for t in flat])
    striped = np.tanh(2 * striped + doubt * normal(chance, len(flat)))
    objectness = 1 / (1 + np.exp(-(4 * real - 2.5 + doubt * normal(chance, len(flat)))))
    classes = _classes(shapes, colors, objectness)
    confidence = objectness * (0.5 + 0.5 * classes[:, 1:].max(axis=1))
    features = _features(shapes, colors, striped, objectness, boxes, difficulty, chance)
    ends = np.cumsum([len(things) for things in found])
    out = []
    for end, things in zip(ends.tolist(), found, strict=True):
        rows = np.arange(end - len(things), end)
        if ranked:
            rows = rows[np.argsort(-confidence[rows], kind="stable")]
        out.append(
            Seen(
                boxes=boxes[rows].astype(np.float32),
                features=features[rows].astype(np.float16),
                classes=classes[rows].astype(np.float32),
                confidence=confidence[rows].astype(np.float32),
                shapes=shapes[rows].argmax(axis=1),
                colors=colors[rows].argmax(axis=1),
            )
        )
    return out


def _boxes(flat: list[Thing | None], shift: float, chance: Chance) -> NDArray[np.float64]:
    """(N, 4); of false boxes anywhere, 8 to 40 px wide and high."""
    side = 8 + 32 * chance.uniform(len(flat), 2) ** 2
    start = chance.uniform(len(flat), 2) * (SIDE - side)
    boxes = np.concatenate([start, start + side], axis=1)
    for row, thing in enumerate(flat):
        if thing is not None:
            boxes[row] = thing.corners
    moved: NDArray[np.float64] = np.clip(boxes + shift * normal(chance, len(flat), 4), 0, SIDE)
    # Never inside out: the smallest thing is 9 px wide.
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    return moved


def _belief(
    truth: list[int],
    names: Sequence[str],
    alike: set[tuple[str, str]],
    doubt: NDArray[np.float64],
    chance: Chance,
) -> NDArray[np.float64]:
    """(N, names): softmax of 4 at the truth, 1 at what looks like it, and noise of std `doubt`."""
    size = len(names)
    logits = np.zeros((size + 1, size))
    logits[:size] = 4 * np.eye(size)
    for a, b in alike:
        i, j = names.index(a), names.index(b)
        logits[i, j] = logits[j, i] = 1.0
    drawn = logits[truth] + doubt[:, None] * normal(chance, len(truth), size)
    weight = np.exp(drawn)
    belief: NDArray[np.float64] = weight / weight.sum(axis=1, keepdims=True)
    return belief


def _classes(
    shapes: NDArray[np.float64], colors: NDArray[np.float64], objectness: NDArray[np.float64]
) -> NDArray[np.float64]:
    pairs = shapes[:, :BOX, None] * colors[:, None, :GRAY]
    box = (shapes[:, BOX] * colors[:, GRAY])[:, None]
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
    chance: Chance,
) -> NDArray[np.float64]:
    """(N, DIM), none negative, as after a detector's last ReLU."""
    size = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) / 12 - 1
    seen = np.stack([objectness, striped * objectness, size], axis=1)
    believed = np.concatenate([shapes, colors], axis=1) * objectness[:, None]
    hidden = np.concatenate([seen, 2 * believed], axis=1) @ _layer(believed.shape[1] + 3)
    noise = (0.2 + 0.4 * difficulty) * normal(chance, *hidden.shape)
    return np.maximum(hidden + noise, 0.0)


@lru_cache
def _layer(width: int) -> NDArray[np.float64]:
    """The detector's own weights: the same in every world, so what is learnt carries over."""
    return normal(Chance("scenes", "detector's weights"), width, DIM) * 0.7
