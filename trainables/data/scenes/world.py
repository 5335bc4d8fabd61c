"""What a scene is made of, and how scenes are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.data.scenes.rng import Dice

SIDE = 64
"""Of a picture, in pixels."""
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "box")
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "gray")
BOX, GRAY = 6, 6
"""A box is always gray, and nothing else is; it may hide anything."""
BOXES = 0.5
"""Share of the scenes that hold a box."""

_CELL = 16
"""Things stand in different cells of a grid of this side, so they hardly overlap."""
_RADIUS = {False: (4.5, 5.5), True: (6.5, 7.5)}
"""Of small and of big things: half the side of their box, in pixels."""
_SHIFT = 2.0
"""A thing's centre lies at most so far from its cell's, along each axis."""
_FEWEST, _MOST_EASY, _MOST_HARD = 2, 2, 5
"""Things in a scene, a box not counted: 2 at difficulty 0, 2 to 5 at difficulty 1."""


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
    """Centre in pixels, from the top left."""
    radius: float

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 in pixels, within the picture."""
        r, end = self.radius, float(SIDE)
        return (
            max(self.x - r, 0.0),
            max(self.y - r, 0.0),
            min(self.x + r, end),
            min(self.y + r, end),
        )


@dataclass(frozen=True, slots=True)
class Scene:
    things: tuple[Thing, ...]
    """No two agree in shape and colour; the box, if there is one, is the last."""

    @property
    def shown(self) -> tuple[Thing, ...]:
        """All but the box."""
        return self.things[:-1] if self.has_box else self.things

    @property
    def has_box(self) -> bool:
        return self.things[-1].shape == BOX


def draw(count: int, difficulty: float, *seed: str | int) -> list[Scene]:
    """`count` scenes; `difficulty` (0 to 1) adds things."""
    dice = Dice(*seed, "world")
    most = round(_MOST_EASY + (_MOST_HARD - _MOST_EASY) * difficulty)
    return [_scene(dice, _FEWEST + dice.below(most - _FEWEST + 1)) for _ in range(count)]


def _scene(dice: Dice, shown: int) -> Scene:
    cells = dice.sample(range((SIDE // _CELL) ** 2), shown + 1)
    kinds = dice.sample(range(BOX * GRAY), shown)
    things = [
        _placed(dice, kind // GRAY, kind % GRAY, dice.chance(0.5), dice.chance(0.5), cell)
        for kind, cell in zip(kinds, cells[:-1], strict=True)
    ]
    if dice.chance(BOXES):
        things.append(_placed(dice, BOX, GRAY, True, False, cells[-1]))
    return Scene(tuple(things))


def _placed(dice: Dice, shape: int, color: int, big: bool, striped: bool, cell: int) -> Thing:
    row, column = divmod(cell, SIDE // _CELL)
    x = (column + 0.5) * _CELL + dice.between(-_SHIFT, _SHIFT)
    y = (row + 0.5) * _CELL + dice.between(-_SHIFT, _SHIFT)
    return Thing(shape, color, big, striped, x, y, dice.between(*_RADIUS[big]))
