"""Pictures of scenes."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from trainables.data.scenes.rng import normal
from trainables.data.scenes.world import SHAPES, SIDE, Scene, Thing
from trainables.seeds import Chance

Floats = NDArray[np.float32]

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
"""Corners in units of the radius, from the centre, y down. A circle needs none."""
_FINE = 4
"""Pictures are drawn so many times larger and shrunk, which smooths the edges."""
_STRIPES = 3
"""Width of a stripe in pixels."""


def picture(scene: Scene, difficulty: float, chance: Chance) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3): things on a pale ground; `difficulty` mottles it and shifts the colours."""
    tint = 215 + 30 * chance.uniform(1, 1, 3)
    mottle = 12 * difficulty * normal(chance, SIDE // 8, SIDE // 8)
    image = (tint + np.kron(mottle, np.ones((8, 8)))[:, :, None]).astype(np.float32)
    shades = 14 * difficulty * normal(chance, len(scene.things), 3)
    for thing, shade in zip(scene.things, shades, strict=True):
        cover = _cover(thing)[:, :, None]
        ink = _ink(thing, shade.astype(np.float32))
        image = image * (1 - cover) + ink * cover
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _cover(thing: Thing) -> Floats:
    """(SIDE, SIDE): how much of each pixel the thing covers."""
    fine = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    draw = ImageDraw.Draw(fine)
    x, y, r = thing.x * _FINE, thing.y * _FINE, thing.radius * _FINE
    name = SHAPES[thing.shape]
    if name == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        draw.polygon([(x + r * a, y + r * b) for a, b in _OUTLINES[name]], fill=255)
    cover: Floats = np.asarray(fine.reduce(_FINE), np.float32) / np.float32(255)
    return cover


def _ink(thing: Thing, shade: Floats) -> Floats:
    """(SIDE, SIDE, 3), the thing's colour, every other stripe of it darker; a box has a lid."""
    ink: Floats = np.broadcast_to(_COLORS[thing.color] + shade, (SIDE, SIDE, 3))
    if thing.striped:
        ink = ink * (1 - np.float32(0.5) * _stripes()[:, :, None])
    elif SHAPES[thing.shape] == "box":
        ink = ink.copy()
        ink[: round(thing.y - thing.radius / 3)] *= 0.6
    return ink


@lru_cache
def _stripes() -> Floats:
    """(SIDE, SIDE): 1 in every other slanting stripe, else 0."""
    rows, columns = np.indices((SIDE, SIDE))
    return ((rows + columns) // _STRIPES % 2).astype(np.float32)
