"""VCR: a question about tagged things, four answers, and four reasons for the right one.

A tag refers to a region and is written as its shape in brackets, `[circle]`; only shapes that occur
once in the scene are tagged. Wrong answers and reasons have the form of the right one, whose
position is drawn uniformly, so the text alone gives an accuracy of one in four.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.data.scenes.phrases import (
    SIDES,
    Description,
    relative_sides,
    side_phrase,
    unique_things,
)
from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.world import BOX_COLOR, COLORS, SHAPES, Scene, Thing

NUM_CHOICES = 4


@dataclass(frozen=True, slots=True)
class VcrItem:
    question: str
    answers: tuple[str, ...]
    """NUM_CHOICES answers."""
    answer: int
    """Index of the right answer."""
    reasons: tuple[str, ...]
    """NUM_CHOICES reasons."""
    reason: int
    """Index of the right reason."""
    scene: int


def vcr_items(scenes: Sequence[Scene], per_scene: int, *seed: str | int) -> list[VcrItem]:
    """Return up to `per_scene` items for each scene, in the order of the scenes."""
    rng, items = SceneRng(*seed, "vcr"), []
    for number, scene in enumerate(scenes):
        tagged = unique_things(scene, "shape")
        for thing in rng.sample(tagged, per_scene):
            others = [other for other in tagged if other is not thing]
            templates = (_color, _color, _place) if others else (_color,)
            drawn = rng.pick(templates)(thing, others, rng)
            if drawn is None:
                continue
            question, choices = drawn
            answers, answer = _shuffled(choices, rng)
            reasons, reason = _shuffled(_reasons(thing, rng), rng)
            items.append(VcrItem(question, answers, answer, reasons, reason, number))
    return items


def tag(thing: Thing) -> str:
    return f"[{SHAPES[thing.shape]}]"


def _shuffled(texts: list[str], rng: SceneRng) -> tuple[tuple[str, ...], int]:
    """Return the texts in random order, and the new index of the first."""
    order = rng.sample(range(NUM_CHOICES), NUM_CHOICES)
    return tuple(texts[i] for i in order), order.index(0)


def _color(thing: Thing, others: Sequence[Thing], rng: SceneRng) -> tuple[str, list[str]]:
    wrong = rng.sample([c for c in range(BOX_COLOR) if c != thing.color], NUM_CHOICES - 1)
    return f"what color is {tag(thing)}?", [f"it is {COLORS[c]}." for c in (thing.color, *wrong)]


def _place(thing: Thing, others: Sequence[Thing], rng: SceneRng) -> tuple[str, list[str]] | None:
    """Ask where a thing is; one answer is true, three are false."""
    true = [(direction, other) for other in others for direction in relative_sides(thing, other)]
    false = [
        (direction, other)
        for other in others
        for direction in SIDES
        if direction not in relative_sides(thing, other)
    ]
    if not true or len(false) < NUM_CHOICES - 1:
        return None
    chosen = [rng.pick(true), *rng.sample(false, NUM_CHOICES - 1)]
    return f"where is {tag(thing)}?", [
        f"{side_phrase(direction)} {tag(other)}." for direction, other in chosen
    ]


def _reasons(thing: Thing, rng: SceneRng) -> list[str]:
    """Return the thing's size and pattern, and the three other combinations."""
    nouns = [
        Description(big=big, striped=striped).noun()
        for big in (thing.big, not thing.big)
        for striped in (thing.striped, not thing.striped)
    ]
    return [f"because {tag(thing)} is a {noun}." for noun in nouns]
