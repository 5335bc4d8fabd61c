"""Descriptions of things, their relative positions, and the balance of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.world import BOX_COLOR, BOX_SHAPE, COLORS, SHAPES, Scene, Thing

MIN_DISTANCE = 10.0
"""Minimum distance in pixels of the centres of two things, along the axis, for one to be left of,
right of, above or below the other."""
SIDES = ("left", "right", "above", "below")


@dataclass(frozen=True, slots=True)
class Description:
    """A set of properties; None matches any value."""

    shape: int | None = None
    color: int | None = None
    big: bool | None = None
    striped: bool | None = None

    def matches(self, thing: Thing) -> bool:
        return (
            (self.shape is None or self.shape == thing.shape)
            and (self.color is None or self.color == thing.color)
            and (self.big is None or self.big == thing.big)
            and (self.striped is None or self.striped == thing.striped)
        )

    def count(self, scene: Scene) -> int:
        return sum(self.matches(thing) for thing in scene.things)

    def noun(self, *, plural: bool = False) -> str:
        """Return a noun phrase such as `big striped red circle`."""
        words = []
        if self.big is not None:
            words.append("big" if self.big else "small")
        if self.striped is not None:
            words.append("striped" if self.striped else "plain")
        if self.color is not None:
            words.append(COLORS[self.color])
        words.append("thing" if self.shape is None else SHAPES[self.shape])
        return " ".join(words) + plural * ("es" if words[-1][-1] in "sx" else "s")

    def with_article(self) -> str:
        """Return the noun phrase with "a" or "an"."""
        noun = self.noun()
        return ("an " if noun[0] in "aeiou" else "a ") + noun


SIMPLE_DESCRIPTIONS = (
    *(Description(shape=s) for s in range(BOX_SHAPE)),
    *(Description(color=c) for c in range(BOX_COLOR)),
)
"""One for each shape except the box, and one for each colour except the box's."""


def describe(thing: Thing, *properties: str) -> Description:
    """Describe `thing` by the named properties, which are fields of `Description`."""
    return Description(**{name: getattr(thing, name) for name in properties})


def describe_uniquely(thing: Thing) -> Description:
    """Describe `thing` by its shape and colour, which no other thing of its scene has."""
    return Description(BOX_SHAPE) if thing.shape == BOX_SHAPE else describe(thing, "shape", "color")


def unique_things(scene: Scene, *properties: str) -> list[Thing]:
    """Return the things, except the box, whose values of these properties no other thing has."""
    return [
        thing for thing in scene.non_box_things if describe(thing, *properties).count(scene) == 1
    ]


def relative_side(thing: Thing, other: Thing, *, vertical: bool) -> str:
    """Return whether `thing` is left or right of `other` (above or below, if `vertical`), or an
    empty string."""
    offset = thing.y - other.y if vertical else thing.x - other.x
    if abs(offset) < MIN_DISTANCE:
        return ""
    return SIDES[2 * vertical + (offset > 0)]


def relative_sides(thing: Thing, other: Thing) -> list[str]:
    """Return all that are true: at most one of left and right, and one of above and below."""
    return [
        direction
        for vertical in (False, True)
        if (direction := relative_side(thing, other, vertical=vertical))
    ]


def side_phrase(direction: str) -> str:
    return f"{direction} of" if direction in SIDES[:2] else direction


def random_description(rng: SceneRng) -> Description:
    """Draw a shape or a colour; in a fifth of the cases both."""
    shape, color = rng.below(BOX_SHAPE), rng.below(BOX_COLOR)
    single = Description(shape=shape) if rng.happens(0.5) else Description(color=color)
    return Description(shape=shape, color=color) if rng.happens(0.2) else single


@dataclass(slots=True)
class AnswerBalance:
    """Keeps the answers to each text evenly distributed, so that the text does not predict them."""

    slack: int
    """Maximum difference between the numbers of two answers to a text."""
    _counts: dict[str, Counter[str]] = field(default_factory=dict)

    def count_if_balanced(self, text: str, answer: str, options: Sequence[str]) -> bool:
        """Count the answer and return True if it keeps the balance."""
        if not self.keeps_balance(text, answer, options):
            return False
        self.count(text, answer)
        return True

    def keeps_balance(self, text: str, answer: str, options: Sequence[str]) -> bool:
        counts = self._counts.setdefault(text, Counter())
        return counts[answer] - min(counts[option] for option in options) < self.slack

    def count(self, text: str, answer: str) -> None:
        self._counts[text][answer] += 1
