"""RefCOCO+: expressions that match one thing of a scene, by its properties or by its side of
another thing, but never by its location in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from trainables.data.scenes.phrases import describe, relative_sides, side_phrase, unique_things
from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.world import SHAPES, Scene, Thing

_PROPERTIES = ("shape", "color", "big", "striped")


@dataclass(frozen=True, slots=True)
class Expression:
    text: str
    scene: int
    thing: int
    """Index into the scene's things."""


def expressions(scenes: Sequence[Scene], per_scene: int, *seed: str | int) -> list[Expression]:
    """Return up to `per_scene` expressions for each scene, with distinct texts, in the order of
    the scenes."""
    rng, drawn = SceneRng(*seed, "refcoco+"), []
    for number, scene in enumerate(scenes):
        thing_by_text: dict[str, Thing] = {}
        for _ in range(4 * per_scene):
            thing = rng.pick(scene.non_box_things)
            text = rng.pick((_by_properties, _by_properties, _by_place))(scene, thing, rng)
            if text:
                thing_by_text[text] = thing
            if len(thing_by_text) == per_scene:
                break
        drawn += [
            Expression(text, number, scene.things.index(t)) for text, t in thing_by_text.items()
        ]
    return drawn


def _by_properties(scene: Scene, thing: Thing, rng: SceneRng) -> str:
    """Use one or two properties that only this thing has, or three if necessary."""
    for size in (rng.pick((1, 2)), 3):
        unique = [
            description
            for names in combinations(_PROPERTIES, size)
            if (description := describe(thing, *names)).count(scene) == 1
        ]
        if unique:
            return f"the {rng.pick(unique).noun()}"
    return ""


def _by_place(scene: Scene, thing: Thing, rng: SceneRng) -> str:
    """Use a property that other things share, and a side of a landmark that only this one is on."""
    description = describe(thing, rng.pick(("shape", "color", "big", "striped")))
    rivals = [other for other in scene.non_box_things if description.matches(other)]
    landmarks = [other for other in unique_things(scene, "shape") if other is not thing]
    if len(rivals) < 2 or not landmarks:
        return ""
    landmark = rng.pick(landmarks)
    distinguishing = [
        direction
        for direction in relative_sides(thing, landmark)
        if sum(direction in relative_sides(rival, landmark) for rival in rivals) == 1
    ]
    if not distinguishing:
        return ""
    where = side_phrase(rng.pick(distinguishing))
    return f"the {description.noun()} {where} the {SHAPES[landmark.shape]}"
