"""The contents of scenes, and how they are drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.data.scenes.rng import SceneRng

IMAGE_SIDE = 64
"""Side of a picture in pixels."""
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "box")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "gray")
BOX_SHAPE = 6
"""Index of the box in SHAPES, and the number of other shapes."""
BOX_COLOR = 6
"""Index of gray in COLORS, and the number of other colours. A box is always gray, and nothing else
is; it may hide anything."""
BOX_SHARE = 0.5
"""Share of the scenes that have a box."""

_CELL_SIDE = 16
"""Side of a grid cell in pixels. Each thing has its own cell, so things hardly overlap."""
_RADIUS = {False: (4.5, 5.5), True: (6.5, 7.5)}
"""Range of half the side of a bounding box in pixels, by whether the thing is big."""
_MAX_SHIFT = 2.0
"""Maximum distance of a thing's centre from its cell's centre, along each axis."""
_MIN_THINGS, _MAX_THINGS_EASY, _MAX_THINGS_HARD = 2, 2, 5
"""Number of things in a scene without the box: 2 at difficulty 0, 2 to 5 at difficulty 1."""


@dataclass(frozen=True, slots=True)
class Thing:
    shape: int
    """Index into SHAPES."""
    color: int
    """Index into COLORS."""
    big: bool
    striped: bool
    x: float
    y: float
    """The centre is (x, y), in pixels from the top left."""
    radius: float
    """Half the side of the bounding box, in pixels."""

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """The bounding box x1, y1, x2, y2 in pixels, clipped to the picture."""
        r, end = self.radius, float(IMAGE_SIDE)
        return (
            max(self.x - r, 0.0),
            max(self.y - r, 0.0),
            min(self.x + r, end),
            min(self.y + r, end),
        )


@dataclass(frozen=True, slots=True)
class Scene:
    things: tuple[Thing, ...]
    """No two have the same shape and colour; the box, if there is one, is the last."""

    @property
    def non_box_things(self) -> tuple[Thing, ...]:
        """All things except the box."""
        return self.things[:-1] if self.has_box else self.things

    @property
    def has_box(self) -> bool:
        return self.things[-1].shape == BOX_SHAPE


def draw_scenes(count: int, difficulty: float, *seed: str | int) -> list[Scene]:
    """Draw `count` scenes; a higher `difficulty` (0 to 1) adds things."""
    rng = SceneRng(*seed, "world")
    max_things = round(_MAX_THINGS_EASY + (_MAX_THINGS_HARD - _MAX_THINGS_EASY) * difficulty)
    return [
        _scene(rng, _MIN_THINGS + rng.below(max_things - _MIN_THINGS + 1)) for _ in range(count)
    ]


def _scene(rng: SceneRng, num_things: int) -> Scene:
    cells = rng.sample(range((IMAGE_SIDE // _CELL_SIDE) ** 2), num_things + 1)
    kinds = rng.sample(range(BOX_SHAPE * BOX_COLOR), num_things)
    things = [
        _place_thing(
            rng, kind // BOX_COLOR, kind % BOX_COLOR, rng.happens(0.5), rng.happens(0.5), cell
        )
        for kind, cell in zip(kinds, cells[:-1], strict=True)
    ]
    if rng.happens(BOX_SHARE):
        things.append(_place_thing(rng, BOX_SHAPE, BOX_COLOR, True, False, cells[-1]))
    return Scene(tuple(things))


def _place_thing(
    rng: SceneRng, shape: int, color: int, big: bool, striped: bool, cell: int
) -> Thing:
    row, column = divmod(cell, IMAGE_SIDE // _CELL_SIDE)
    x = (column + 0.5) * _CELL_SIDE + rng.between(-_MAX_SHIFT, _MAX_SHIFT)
    y = (row + 0.5) * _CELL_SIDE + rng.between(-_MAX_SHIFT, _MAX_SHIFT)
    return Thing(shape, color, big, striped, x, y, rng.between(*_RADIUS[big]))
