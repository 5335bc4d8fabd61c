"""RefCOCO+: expressions that fit one thing of a scene, by its looks or by what it stands beside,
never by where in the picture it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from trainables.data.scenes.phrases import at, of, sides, singular
from trainables.data.scenes.rng import Dice
from trainables.data.scenes.world import SHAPES, Scene, Thing

_LOOKS = ("shape", "color", "big", "striped")


@dataclass(frozen=True, slots=True)
class Expression:
    text: str
    scene: int
    thing: int
    """Its place in the scene's things."""


def expressions(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[Expression]:
    """Up to `each` per scene, of different texts, in the scenes' order."""
    dice, found = Dice(*seed, "refcoco+"), []
    for number, scene in enumerate(scenes):
        said: dict[str, Thing] = {}
        for _ in range(4 * each):
            thing = dice.pick(scene.shown)
            text = dice.pick((_by_looks, _by_looks, _by_place))(scene, thing, dice)
            if text:
                said[text] = thing
            if len(said) == each:
                break
        found += [Expression(text, number, scene.things.index(t)) for text, t in said.items()]
    return found


def _by_looks(scene: Scene, thing: Thing, dice: Dice) -> str:
    """One or two properties, three where two do not do, that only this thing has."""
    for size in (dice.pick((1, 2)), 3):
        enough = [
            wanted
            for names in combinations(_LOOKS, size)
            if (wanted := of(thing, *names)).count(scene) == 1
        ]
        if enough:
            return f"the {dice.pick(enough).noun()}"
    return ""


def _by_place(scene: Scene, thing: Thing, dice: Dice) -> str:
    """A property that it shares with others, and a side of a thing where it alone of them is."""
    wanted = of(thing, dice.pick(("shape", "color", "big", "striped")))
    rivals = [other for other in scene.shown if wanted.fits(other)]
    marks = [other for other in singular(scene, "shape") if other is not thing]
    if len(rivals) < 2 or not marks:
        return ""
    mark = dice.pick(marks)
    alone = [
        where
        for where in sides(thing, mark)
        if sum(where in sides(rival, mark) for rival in rivals) == 1
    ]
    if not alone:
        return ""
    return f"the {wanted.noun()} {at(dice.pick(alone))} the {SHAPES[mark.shape]}"
