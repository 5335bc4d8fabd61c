"""SNLI-VE: whether a scene entails a sentence. A sentence is neutral if nothing contradicts it and
a box could hide what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.scenes.phrases import (
    SIDES,
    AnswerBalance,
    Description,
    random_description,
    relative_side,
    side_phrase,
)
from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.world import BOX_COLOR, BOX_SHAPE, COLORS, SHAPES, Scene

LABELS = ("contradiction", "entailment", "neutral")


@dataclass(frozen=True, slots=True)
class Hypothesis:
    text: str
    label: str
    scene: int


def hypotheses(scenes: Sequence[Scene], per_scene: int, *seed: str | int) -> list[Hypothesis]:
    """Return about `per_scene` hypotheses for each scene, in the order of the scenes."""
    rng, drawn = SceneRng(*seed, "snli-ve"), []
    # Without the second balance, the presence of a box would predict most labels.
    by_text, by_box = AnswerBalance(slack=8), AnswerBalance(slack=20)
    for number, scene in enumerate(scenes):
        box_text, options = f"box: {scene.has_box}", LABELS if scene.has_box else LABELS[:2]
        texts: set[str] = set()
        for _ in range(24 * per_scene):
            text, label = rng.pick(_TEMPLATES)(scene, rng)
            if text in texts or not label:
                continue
            if by_text.keeps_balance(text, label, LABELS) and by_box.keeps_balance(
                box_text, label, options
            ):
                by_text.count(text, label)
                by_box.count(box_text, label)
                texts.add(text)
                drawn.append(Hypothesis(text, label, number))
            if len(texts) == per_scene:
                break
    return drawn


def _there_is(scene: Scene, rng: SceneRng) -> tuple[str, str]:
    description = random_description(rng)
    label = "entailment" if description.count(scene) else _absent_label(scene)
    return f"there is {description.with_article()}.", label


def _is_colored(scene: Scene, rng: SceneRng) -> tuple[str, str]:
    """Use a shape that the scene has at most once; no label if both it and a box are absent."""
    shape, color = rng.below(BOX_SHAPE), rng.below(BOX_COLOR)
    text = f"the {SHAPES[shape]} is {COLORS[color]}."
    things = [thing for thing in scene.non_box_things if thing.shape == shape]
    if not things:
        return text, "neutral" if scene.has_box else ""
    if len(things) > 1:
        return text, ""
    if things[0].color != color and rng.happens(0.5):
        text = f"the {SHAPES[shape]} is {COLORS[things[0].color]}."
        return text, "entailment"
    return text, "entailment" if things[0].color == color else "contradiction"


def _is_beside(scene: Scene, rng: SceneRng) -> tuple[str, str]:
    """Use two shapes that the scene has at most once; no label if one of them and a box are
    absent."""
    first, second = rng.sample(range(BOX_SHAPE), 2)
    direction = rng.pick(SIDES)
    text = f"the {SHAPES[first]} is {side_phrase(direction)} the {SHAPES[second]}."
    counts = [Description(shape=shape).count(scene) for shape in (first, second)]
    if max(counts) > 1:
        return text, ""
    if min(counts) == 0:
        return text, "neutral" if scene.has_box else ""
    one, other = (
        next(thing for thing in scene.non_box_things if thing.shape == shape)
        for shape in (first, second)
    )
    actual = relative_side(one, other, vertical=direction in SIDES[2:])
    if not actual:
        return text, ""
    return text, "entailment" if actual == direction else "contradiction"


def _absent_label(scene: Scene) -> str:
    return "neutral" if scene.has_box else "contradiction"


_TEMPLATES = (_there_is, _there_is, _is_colored, _is_beside)
"""Drawn uniformly."""
