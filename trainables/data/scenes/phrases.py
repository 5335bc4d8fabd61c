"""Words for things: descriptions, what they fit, relations, and texts that say nothing alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainables.data.scenes.rng import Dice
from trainables.data.scenes.world import BOX, COLORS, GRAY, SHAPES, Scene, Thing

APART = 10.0
"""A thing is left of another where its centre is so many pixels further left; and so on."""
SIDES = ("left", "right", "above", "below")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Things of a kind; None leaves a property open."""

    shape: int | None = None
    color: int | None = None
    big: bool | None = None
    striped: bool | None = None

    def fits(self, thing: Thing) -> bool:
        return (
            (self.shape is None or self.shape == thing.shape)
            and (self.color is None or self.color == thing.color)
            and (self.big is None or self.big == thing.big)
            and (self.striped is None or self.striped == thing.striped)
        )

    def count(self, scene: Scene) -> int:
        return sum(self.fits(thing) for thing in scene.things)

    def noun(self, *, many: bool = False) -> str:
        """Such as `big striped red circle`."""
        words = []
        if self.big is not None:
            words.append("big" if self.big else "small")
        if self.striped is not None:
            words.append("striped" if self.striped else "plain")
        if self.color is not None:
            words.append(COLORS[self.color])
        words.append("thing" if self.shape is None else SHAPES[self.shape])
        return " ".join(words) + many * ("es" if words[-1][-1] in "sx" else "s")

    def a(self) -> str:
        """With its article."""
        noun = self.noun()
        return ("an " if noun[0] in "aeiou" else "a ") + noun


SIMPLE = (*(Wanted(shape=s) for s in range(BOX)), *(Wanted(color=c) for c in range(GRAY)))
"""Things of every shape, and of every colour; of the box, none."""


def of(thing: Thing, *properties: str) -> Wanted:
    """Things with these properties of `thing`."""
    return Wanted(**{name: getattr(thing, name) for name in properties})


def kind(thing: Thing) -> Wanted:
    """Its shape and colour, which it shares with no other thing of its scene."""
    return Wanted(BOX) if thing.shape == BOX else of(thing, "shape", "color")


def singular(scene: Scene, *properties: str) -> list[Thing]:
    """The things, the box aside, that no other thing shares these properties with."""
    return [thing for thing in scene.shown if of(thing, *properties).count(scene) == 1]


def side(thing: Thing, other: Thing, *, upright: bool) -> str:
    """Where `thing` is of `other`: left or right, or if `upright` above or below; or nothing."""
    away = thing.y - other.y if upright else thing.x - other.x
    if abs(away) < APART:
        return ""
    return SIDES[2 * upright + (away > 0)]


def sides(thing: Thing, other: Thing) -> list[str]:
    """All that hold: at most one of left and right, and one of above and below."""
    return [where for upright in (False, True) if (where := side(thing, other, upright=upright))]


def at(where: str) -> str:
    return f"{where} of" if where in SIDES[:2] else where


def random_kind(dice: Dice) -> Wanted:
    """Any shape or any colour; a fifth are pairs of both."""
    shape, color = dice.below(BOX), dice.below(GRAY)
    alone = Wanted(shape=shape) if dice.chance(0.5) else Wanted(color=color)
    return Wanted(shape=shape, color=color) if dice.chance(0.2) else alone


@dataclass(slots=True)
class Balance:
    """Lets pass what keeps the answers to every text even, so that the text alone says nothing."""

    slack: int
    """The answers to a text may differ in number by so many."""
    _given: dict[str, Counter[str]] = field(default_factory=dict)

    def admits(self, text: str, answer: str, options: Sequence[str]) -> bool:
        if not self.fair(text, answer, options):
            return False
        self.count(text, answer)
        return True

    def fair(self, text: str, answer: str, options: Sequence[str]) -> bool:
        given = self._given.setdefault(text, Counter())
        return given[answer] - min(given[option] for option in options) < self.slack

    def count(self, text: str, answer: str) -> None:
        self._given[text][answer] += 1
