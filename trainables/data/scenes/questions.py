"""Questions about one scene: VQA's, which ask for one thing, and GQA's, which take two steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trainables.data.scenes.phrases import (
    APART,
    SIDES,
    SIMPLE,
    Balance,
    Wanted,
    at,
    kind,
    side,
    singular,
)
from trainables.data.scenes.rng import Dice
from trainables.data.scenes.world import BOX, COLORS, GRAY, SHAPES, SIDE, Scene, Thing

_SHAPES, _COLORS = SHAPES[:BOX], COLORS[:GRAY]
_YES_NO = ("yes", "no")
_NUMBERS = ("0", "1", "2")
_SIZES = ("big", "small")
_PATTERNS = ("striped", "plain")
VQA_ANSWERS = (*_YES_NO, *_NUMBERS, *_COLORS, *_SHAPES, *_SIZES, *_PATTERNS)
GQA_ANSWERS = (*_YES_NO, *SIDES, *_COLORS, *_SHAPES, *_SIZES)
_HUMANS = 10
_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""By the number of people who gave an answer; from 4 on it is fully right."""


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    answer: str
    options: tuple[str, ...]
    """The answers that come into question."""
    scene: int = 0
    """Which of the scenes it is about."""


Asked: TypeAlias = Question | None
"""None where the scene does not lend itself to the question."""
Asker: TypeAlias = Callable[[Scene, Dice], Asked]


def vqa(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[Question]:
    """About `each` questions per scene, in the scenes' order."""
    return _asked(scenes, each, _VQA, Dice(*seed, "vqa"))


def gqa(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[Question]:
    """About `each` questions per scene, in the scenes' order."""
    return _asked(scenes, each, _GQA, Dice(*seed, "gqa"))


def human_answers(question: Question, doubt: float, dice: Dice) -> dict[str, float]:
    """Scores of what ten people answer, each of whom errs with chance `doubt`."""
    given = Counter(
        dice.pick(question.options) if dice.chance(doubt) else question.answer
        for _ in range(_HUMANS)
    )
    return {answer: _SCORES[min(count, 4)] for answer, count in sorted(given.items())}


def _asked(
    scenes: Sequence[Scene], each: int, askers: Sequence[Asker], dice: Dice
) -> list[Question]:
    balance, found = Balance(slack=2), []
    for number, scene in enumerate(scenes):
        texts: set[str] = set()
        for _ in range(4 * each):
            asked = dice.pick(askers)(scene, dice)
            if asked is None or asked.text in texts:
                continue
            if balance.admits(asked.text, asked.answer, asked.options):
                texts.add(asked.text)
                found.append(Question(asked.text, asked.answer, asked.options, number))
            if len(texts) == each:
                break
    return found


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _color(scene: Scene, dice: Dice) -> Asked:
    things = singular(scene, "shape")
    if not things:
        return None
    thing = dice.pick(things)
    return Question(f"what color is the {SHAPES[thing.shape]}?", COLORS[thing.color], _COLORS)


def _shape(scene: Scene, dice: Dice) -> Asked:
    things = singular(scene, "color")
    if not things:
        return None
    thing = dice.pick(things)
    return Question(f"what shape is the {COLORS[thing.color]} thing?", SHAPES[thing.shape], _SHAPES)


def _looks(scene: Scene, dice: Dice) -> Asked:
    things = singular(scene, "shape")
    if not things:
        return None
    thing = dice.pick(things)
    name = SHAPES[thing.shape]
    if dice.chance(0.5):
        return Question(f"is the {name} big or small?", _SIZES[not thing.big], _SIZES)
    return Question(f"is the {name} striped or plain?", _PATTERNS[not thing.striped], _PATTERNS)


def _is_there(scene: Scene, dice: Dice) -> Asked:
    shape, color = Wanted(shape=dice.below(BOX)), Wanted(color=dice.below(GRAY))
    wanted = dice.pick((shape, color))
    return Question(f"is there {wanted.a()}?", _yes(wanted.count(scene) > 0), _YES_NO)


def _is_there_one(scene: Scene, dice: Dice) -> Asked:
    """Of a shape in a colour; where the answer is no, both are there, but not in one thing."""
    one, other = dice.sample(scene.shown, 2)
    wanted = kind(one) if dice.chance(0.5) else Wanted(one.shape, other.color)
    return Question(f"is there {wanted.a()}?", _yes(wanted.count(scene) > 0), _YES_NO)


def _how_many(scene: Scene, dice: Dice) -> Asked:
    number = dice.below(len(_NUMBERS))
    fitting = [wanted for wanted in SIMPLE if wanted.count(scene) == number]
    if not fitting:
        return None
    noun = dice.pick(fitting).noun(many=True)
    return Question(f"how many {noun} are there?", str(number), _NUMBERS)


def _half(scene: Scene, dice: Dice) -> Asked:
    """Which half of the picture a thing is in."""
    things = [t for t in singular(scene, "shape") if abs(t.x - SIDE / 2) >= APART / 2]
    if not things:
        return None
    thing = dice.pick(things)
    options = SIDES[:2]
    text = f"which side of the image is the {SHAPES[thing.shape]} on?"
    return Question(text, options[thing.x > SIDE / 2], options)


def _verify(scene: Scene, dice: Dice) -> Asked:
    things = singular(scene, "shape")
    if not things:
        return None
    thing = dice.pick(things)
    color = thing.color if dice.chance(0.5) else dice.below(GRAY)
    text = f"is the {SHAPES[thing.shape]} {COLORS[color]}?"
    return Question(text, _yes(color == thing.color), _YES_NO)


def _which_color(scene: Scene, dice: Dice) -> Asked:
    things = singular(scene, "shape")
    if not things:
        return None
    thing = dice.pick(things)
    wrong = dice.pick([color for color in range(GRAY) if color != thing.color])
    one, other = sorted((COLORS[thing.color], COLORS[wrong]))
    text = f"is the {SHAPES[thing.shape]} {one} or {other}?"
    return Question(text, COLORS[thing.color], (one, other))


def _pair(scene: Scene, dice: Dice) -> list[Thing]:
    """Two things, each told by its shape; or fewer."""
    return dice.sample(singular(scene, "shape"), 2)


def _beside(scene: Scene, dice: Dice) -> Asked:
    """The colour or shape of the one thing that is on a certain side of another."""
    for other in dice.sample(singular(scene, "shape"), 3):
        upright = dice.chance(0.5)
        placed = [(thing, side(thing, other, upright=upright)) for thing in scene.shown]
        for where in dice.sample(SIDES[2 * upright : 2 * upright + 2], 2):
            there = [thing for thing, found in placed if found == where]
            if len(there) == 1:
                place = f"{at(where)} the {SHAPES[other.shape]}"
                if dice.chance(0.5):
                    text = f"what color is the thing {place}?"
                    return Question(text, COLORS[there[0].color], _COLORS)
                return Question(f"what shape is {place}?", SHAPES[there[0].shape], _SHAPES)
    return None


def _which_side(scene: Scene, dice: Dice) -> Asked:
    pair = _pair(scene, dice)
    upright = dice.chance(0.5)
    if len(pair) < 2 or not (where := side(*pair, upright=upright)):
        return None
    one, other = (SHAPES[thing.shape] for thing in pair)
    first, second = options = SIDES[2 * upright : 2 * upright + 2]
    return Question(f"is the {one} {first} or {at(second)} the {other}?", where, options)


def _same(scene: Scene, dice: Dice) -> Asked:
    pair = _pair(scene, dice)
    if len(pair) < 2:
        return None
    one, other = pair
    name, same = dice.pick(
        (
            ("color", one.color == other.color),
            ("size", one.big == other.big),
            ("pattern", one.striped == other.striped),
        )
    )
    nouns = f"the {SHAPES[one.shape]} and the {SHAPES[other.shape]}"
    return Question(f"are {nouns} the same {name}?", _yes(same), _YES_NO)


def _both(scene: Scene, dice: Dice) -> Asked:
    """Where the answer is no, one of the two is there."""
    one, other = Wanted(shape=dice.below(BOX)), Wanted(color=dice.below(GRAY))
    if not one.count(scene) and not other.count(scene):
        return None
    holds = one.count(scene) > 0 and other.count(scene) > 0
    return Question(f"are there {one.a()} and {other.a()}?", _yes(holds), _YES_NO)


_VQA: tuple[Asker, ...] = (
    *(_color, _color, _color, _shape, _shape, _shape, _is_there, _is_there, _is_there),
    *(_looks, _looks, _is_there_one, _how_many),
)
_GQA: tuple[Asker, ...] = (
    *(_which_color, _which_color, _which_color, _verify, _verify, _half, _half),
    *(_beside, _which_side, _same, _both),
)
"""Drawn from with even chances."""
