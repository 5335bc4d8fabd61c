"""Captions: what people might write under a scene; and what the pre-training corpus states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from trainables.data.scenes.phrases import (
    SIMPLE,
    Wanted,
    at,
    kind,
    of,
    sides,
    singular,
)
from trainables.data.scenes.rng import Dice
from trainables.data.scenes.world import BOX, SHAPES, Scene, Thing

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_LOOKS = ("color", "color", "big", "striped")
_Form: TypeAlias = Callable[[Scene, Dice], str]
"""Nothing where the scene does not lend itself to it."""


def captions(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[list[str]]:
    """`each` different ones of every scene, two or three things in each."""
    dice = Dice(*seed, "captions")
    return [_different(scene, each, dice, (_listed, _listed, _placed)) for scene in scenes]


def statements(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[list[str]]:
    """`each` different ones of every scene: captions, and single facts."""
    dice = Dice(*seed, "statements")
    return [_different(scene, each, dice, _FACTS) for scene in scenes]


def _different(scene: Scene, each: int, dice: Dice, forms: Sequence[_Form]) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < each:
        if said := dice.pick(forms)(scene, dice):
            found[said] = None
    return list(found)


def _named(thing: Thing, dice: Dice) -> Wanted:
    """By its shape and colour, and now and then by one thing more."""
    if thing.shape == BOX:
        return kind(thing)
    more = dice.pick(((), (), ("big",), ("striped",)))
    return of(thing, "shape", "color", *more)


def _listed(scene: Scene, dice: Dice) -> str:
    things = dice.sample(scene.things, 2 + dice.below(2))
    *first, last = (_named(thing, dice).a() for thing in things)
    return f"{', '.join(first)} and {last}."


def _placed(scene: Scene, dice: Dice) -> str:
    one, other = dice.sample(scene.things, 2)
    found = sides(one, other)
    if not found:
        return ""
    return f"{_named(one, dice).a()} {at(dice.pick(found))} {_named(other, dice).a()}."


def _counted(scene: Scene, dice: Dice) -> str:
    wanted = dice.pick([wanted for wanted in SIMPLE if wanted.count(scene)])
    number = wanted.count(scene)
    verb = "is" if number == 1 else "are"
    return f"there {verb} {_NUMBERS[number]} {wanted.noun(many=number > 1)}."


def _described(scene: Scene, dice: Dice) -> str:
    things = singular(scene, "shape")
    if not things:
        return ""
    thing = dice.pick(things)
    noun = of(thing, dice.pick(_LOOKS)).noun().removesuffix(" thing")
    return f"the {SHAPES[thing.shape]} is {noun}."


def _one(scene: Scene, dice: Dice) -> str:
    thing = dice.pick(scene.things)
    return f"there is {_named(thing, dice).a()}."


def _absent(scene: Scene, dice: Dice) -> str:
    missing = [wanted for wanted in SIMPLE if not wanted.count(scene)]
    return f"there is no {dice.pick(missing).noun()}."


_FACTS: tuple[_Form, ...] = (
    *(_listed, _listed, _listed, _listed, _described, _described, _described),
    *(_one, _placed, _counted, _absent),
)
"""Drawn from with even chances."""
