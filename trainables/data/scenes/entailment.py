"""SNLI-VE: what a scene says of a sentence. Where nothing speaks against it but a box could hide
what it is about, it is neither true nor false."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.scenes.phrases import SIDES, Balance, Wanted, at, random_kind, side
from trainables.data.scenes.rng import Dice
from trainables.data.scenes.world import BOX, COLORS, GRAY, SHAPES, Scene

LABELS = ("contradiction", "entailment", "neutral")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    text: str
    label: str
    scene: int


def hypotheses(scenes: Sequence[Scene], each: int, *seed: str | int) -> list[Hypothesis]:
    """About `each` per scene, in the scenes' order."""
    dice, found = Dice(*seed, "snli-ve"), []
    # Else whether there is a box would tell most labels, whatever the sentence says.
    by_text, by_box = Balance(slack=8), Balance(slack=20)
    for number, scene in enumerate(scenes):
        boxed, likely = f"box: {scene.has_box}", LABELS if scene.has_box else LABELS[:2]
        texts: set[str] = set()
        for _ in range(24 * each):
            text, label = dice.pick(_FORMS)(scene, dice)
            if text in texts or not label:
                continue
            if by_text.fair(text, label, LABELS) and by_box.fair(boxed, label, likely):
                by_text.count(text, label)
                by_box.count(boxed, label)
                texts.add(text)
                found.append(Hypothesis(text, label, number))
            if len(texts) == each:
                break
    return found


def _there_is(scene: Scene, dice: Dice) -> tuple[str, str]:
    wanted = random_kind(dice)
    label = "entailment" if wanted.count(scene) else _unseen(scene)
    return f"there is {wanted.a()}.", label


def _is_colored(scene: Scene, dice: Dice) -> tuple[str, str]:
    """Of a shape that the scene shows at most once; without it and without a box: no label."""
    shape, color = dice.below(BOX), dice.below(GRAY)
    text = f"the {SHAPES[shape]} is {COLORS[color]}."
    found = [thing for thing in scene.shown if thing.shape == shape]
    if not found:
        return text, "neutral" if scene.has_box else ""
    if len(found) > 1:
        return text, ""
    if found[0].color != color and dice.chance(0.5):
        text = f"the {SHAPES[shape]} is {COLORS[found[0].color]}."
        return text, "entailment"
    return text, "entailment" if found[0].color == color else "contradiction"


def _is_beside(scene: Scene, dice: Dice) -> tuple[str, str]:
    """Of two shapes that the scene shows at most once; without one and without a box: no label."""
    first, second = dice.sample(range(BOX), 2)
    said = dice.pick(SIDES)
    text = f"the {SHAPES[first]} is {at(said)} the {SHAPES[second]}."
    counts = [Wanted(shape=shape).count(scene) for shape in (first, second)]
    if max(counts) > 1:
        return text, ""
    if min(counts) == 0:
        return text, "neutral" if scene.has_box else ""
    one, other = (
        next(thing for thing in scene.shown if thing.shape == shape) for shape in (first, second)
    )
    where = side(one, other, upright=said in SIDES[2:])
    if not where:
        return text, ""
    return text, "entailment" if where == said else "contradiction"


def _unseen(scene: Scene) -> str:
    return "neutral" if scene.has_box else "contradiction"


_FORMS = (_there_is, _there_is, _is_colored, _is_beside)
"""Drawn from with even chances."""
