"""VCR: a question about tagged things, four answers, and four reasons for the right one.

A tag stands for a box and is written as its shape in brackets, `[circle]`; only shapes that the
scene shows once are tagged. Wrong answers and reasons are of the right one's form, and which is
right is drawn evenly, so the text alone gives one in four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.scenes.phrases import SIDES, Wanted, at, sides, singular
from trainables.data.scenes.rng import Dice
from trainables.data.scenes.world import COLORS, GRAY, SHAPES, Scene, Thing

CHOICES = 4


@dataclass(frozen=True, slots=True)
class Riddle:
    question: str
    answers: tuple[str, ...]
    """CHOICES of them, as the reasons."""
    answer: int
    reasons: tuple[str, ...]
    reason: int
    scene: int


def riddles(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[Riddle]:
    """Up to `each` per scene, in the scenes' order."""
    dice, found = Dice(*seed, "vcr"), []
    for number, scene in enumerate(scenes):
        tagged = singular(scene, "shape")
        for thing in dice.sample(tagged, each):
            others = [other for other in tagged if other is not thing]
            forms = (_color, _color, _place) if others else (_color,)
            asked = dice.pick(forms)(thing, others, dice)
            if asked is None:
                continue
            question, choices = asked
            answers, answer = _shuffled(choices, dice)
            reasons, reason = _shuffled(_reasons(thing, dice), dice)
            found.append(Riddle(question, answers, answer, reasons, reason, number))
    return found


def tag(thing: Thing) -> str:
    return f"[{SHAPES[thing.shape]}]"


def _shuffled(texts: list[str], dice: Dice) -> tuple[tuple[str, ...], int]:
    """In random order, and where the first went."""
    order = dice.sample(range(CHOICES), CHOICES)
    return tuple(texts[place] for place in order), order.index(0)


def _color(thing: Thing, others: Sequence[Thing], dice: Dice) -> tuple[str, list[str]]:
    wrong = dice.sample([c for c in range(GRAY) if c != thing.color], CHOICES - 1)
    return f"what color is {tag(thing)}?", [f"it is {COLORS[c]}." for c in (thing.color, *wrong)]


def _place(thing: Thing, others: Sequence[Thing], dice: Dice) -> tuple[str, list[str]] | None:
    """One true place beside another thing, three false ones beside any."""
    true = [(where, other) for other in others for where in sides(thing, other)]
    false = [
        (where, other) for other in others for where in SIDES if where not in sides(thing, other)
    ]
    if not true or len(false) < CHOICES - 1:
        return None
    chosen = [dice.pick(true), *dice.sample(false, CHOICES - 1)]
    return f"where is {tag(thing)}?", [f"{at(where)} {tag(other)}." for where, other in chosen]


def _reasons(thing: Thing, dice: Dice) -> list[str]:
    """Its size and pattern, and the three other pairs of them."""
    looks = [
        Wanted(big=big, striped=striped).noun()
        for big in (thing.big, not thing.big)
        for striped in (thing.striped, not thing.striped)
    ]
    return [f"because {tag(thing)} is a {noun}." for noun in looks]
