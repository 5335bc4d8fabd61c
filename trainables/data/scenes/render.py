"""Draw scenes as pictures."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainables.data.scenes.rng import normal
from trainables.data.scenes.world import IMAGE_SIDE, SHAPES, Scene, Thing
from trainables.seeds import Rng

_Floats = NDArray[np.float32]

_RGB = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (40, 90, 220),
    "yellow": (240, 210, 50),
    "purple": (140, 60, 180),
    "orange": (245, 135, 30),
    "gray": (128, 128, 128),
}
_COLORS = np.array(list(_RGB.values()), np.float32)
_STAR = [(0.0, -1.0), (0.24, -0.32), (0.95, -0.31), (0.38, 0.12), (0.59, 0.81), (0.0, 0.4)]
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -1.0), (1.0, 0.9), (-1.0, 0.9)],
    "diamond": [(0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)],
    "cross": [
        *[(-0.35, -1.0), (0.35, -1.0), (0.35, -0.35), (1.0, -0.35), (1.0, 0.35), (0.35, 0.35)],
        *[(0.35, 1.0), (-0.35, 1.0), (-0.35, 0.35), (-1.0, 0.35), (-1.0, -0.35), (-0.35, -0.35)],
    ],
    "star": [*_STAR, *((-x, y) for x, y in reversed(_STAR[1:-1]))],
    "box": [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)],
}
"""Corners relative to the centre, in units of the radius, y down; a circle has none."""
_SUPERSAMPLING = 4
"""Pictures are drawn this many times larger and then reduced, which smooths the edges."""
_STRIPE_WIDTH = 3
"""In pixels."""


def render_scene(scene: Scene, difficulty: float, rng: Rng) -> NDArray[np.uint8]:
    """Return a picture (IMAGE_SIDE, IMAGE_SIDE, 3): things on a pale background. A higher
    `difficulty` mottles the background and shifts the colours."""
    tint = 215 + 30 * rng.uniform(1, 1, 3)
    mottle = 12 * difficulty * normal(rng, IMAGE_SIDE // 8, IMAGE_SIDE // 8)
    image = (tint + np.kron(mottle, np.ones((8, 8)))[:, :, None]).astype(np.float32)
    shades = 14 * difficulty * normal(rng, len(scene.things), 3)
    for thing, shade in zip(scene.things, shades, strict=True):
        coverage = _coverage(thing)[:, :, None]
        color = _color(thing, shade.astype(np.float32))
        image = image * (1 - coverage) + color * coverage
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _coverage(thing: Thing) -> _Floats:
    """Return (IMAGE_SIDE, IMAGE_SIDE): how much of each pixel the thing covers."""
    large = Image.new("L", (IMAGE_SIDE * _SUPERSAMPLING, IMAGE_SIDE * _SUPERSAMPLING))
    draw = ImageDraw.Draw(large)
    x, y, r = thing.x * _SUPERSAMPLING, thing.y * _SUPERSAMPLING, thing.radius * _SUPERSAMPLING
    name = SHAPES[thing.shape]
    if name == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        draw.polygon([(x + r * a, y + r * b) for a, b in _OUTLINES[name]], fill=255)
    coverage: _Floats = np.asarray(large.reduce(_SUPERSAMPLING), np.float32) / np.float32(255)
    return coverage


def _color(thing: Thing, shade: _Floats) -> _Floats:
    """Return (IMAGE_SIDE, IMAGE_SIDE, 3): the thing's colour, with every other stripe darker if it
    is striped; a box has a lid."""
    color: _Floats = np.broadcast_to(_COLORS[thing.color] + shade, (IMAGE_SIDE, IMAGE_SIDE, 3))
    if thing.striped:
        color = color * (1 - np.float32(0.5) * _stripes()[:, :, None])
    elif SHAPES[thing.shape] == "box":
        color = color.copy()
        color[: round(thing.y - thing.radius / 3)] *= 0.6
    return color


@lru_cache
def _stripes() -> _Floats:
    """Return (IMAGE_SIDE, IMAGE_SIDE): 1 in every other diagonal stripe, else 0."""
    rows, columns = np.indices((IMAGE_SIDE, IMAGE_SIDE))
    return ((rows + columns) // _STRIPE_WIDTH % 2).astype(np.float32)
