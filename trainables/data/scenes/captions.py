"""Captions, as people might write them, and the statements of the pre-training corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from trainables.data.scenes.phrases import (
    SIMPLE_DESCRIPTIONS,
    Description,
    describe,
    describe_uniquely,
    relative_sides,
    side_phrase,
    unique_things,
)
from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.world import BOX_SHAPE, SHAPES, Scene, Thing

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_PROPERTIES = ("color", "color", "big", "striped")
_Template: TypeAlias = Callable[[Scene, SceneRng], str]
"""Returns a text about the scene, or an empty string if the template does not apply to it."""


def captions(scenes: Sequence[Scene], per_scene: int, *seed: str | int) -> list[list[str]]:
    """Return `per_scene` distinct captions for every scene, with two or three things each."""
    rng = SceneRng(*seed, "captions")
    return [_distinct(scene, per_scene, rng, (_listed, _listed, _placed)) for scene in scenes]


def statements(scenes: Sequence[Scene], per_scene: int, *seed: str | int) -> list[list[str]]:
    """Return `per_scene` distinct statements for every scene: captions and single facts."""
    rng = SceneRng(*seed, "statements")
    return [_distinct(scene, per_scene, rng, _FACTS) for scene in scenes]


def _distinct(scene: Scene, count: int, rng: SceneRng, templates: Sequence[_Template]) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < count:
        if text := rng.pick(templates)(scene, rng):
            texts[text] = None
    return list(texts)


def _describe_thing(thing: Thing, rng: SceneRng) -> Description:
    """Describe a thing by its shape and colour, and sometimes by one more property."""
    if thing.shape == BOX_SHAPE:
        return describe_uniquely(thing)
    more = rng.pick(((), (), ("big",), ("striped",)))
    return describe(thing, "shape", "color", *more)


def _listed(scene: Scene, rng: SceneRng) -> str:
    things = rng.sample(scene.things, 2 + rng.below(2))
    *first, last = (_describe_thing(thing, rng).with_article() for thing in things)
    return f"{', '.join(first)} and {last}."


def _placed(scene: Scene, rng: SceneRng) -> str:
    one, other = rng.sample(scene.things, 2)
    directions = relative_sides(one, other)
    if not directions:
        return ""
    first = _describe_thing(one, rng).with_article()
    where = side_phrase(rng.pick(directions))
    return f"{first} {where} {_describe_thing(other, rng).with_article()}."


def _counted(scene: Scene, rng: SceneRng) -> str:
    description = rng.pick([each for each in SIMPLE_DESCRIPTIONS if each.count(scene)])
    number = description.count(scene)
    verb = "is" if number == 1 else "are"
    return f"there {verb} {_NUMBERS[number]} {description.noun(plural=number > 1)}."


def _described(scene: Scene, rng: SceneRng) -> str:
    things = unique_things(scene, "shape")
    if not things:
        return ""
    thing = rng.pick(things)
    noun = describe(thing, rng.pick(_PROPERTIES)).noun().removesuffix(" thing")
    return f"the {SHAPES[thing.shape]} is {noun}."


def _single(scene: Scene, rng: SceneRng) -> str:
    thing = rng.pick(scene.things)
    return f"there is {_describe_thing(thing, rng).with_article()}."


def _absent(scene: Scene, rng: SceneRng) -> str:
    missing = [each for each in SIMPLE_DESCRIPTIONS if not each.count(scene)]
    return f"there is no {rng.pick(missing).noun()}."


_FACTS: tuple[_Template, ...] = (
    *(_listed, _listed, _listed, _listed, _described, _described, _described),
    *(_single, _placed, _counted, _absent),
)
"""Drawn uniformly."""
