"""Questions about one scene: VQA's about a single fact, and GQA's, which need two steps of
reasoning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trainables.data.scenes.phrases import (
    MIN_DISTANCE,
    SIDES,
    SIMPLE_DESCRIPTIONS,
    AnswerBalance,
    Description,
    describe_uniquely,
    relative_side,
    side_phrase,
    unique_things,
)
from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.world import (
    BOX_COLOR,
    BOX_SHAPE,
    COLORS,
    IMAGE_SIDE,
    SHAPES,
    Scene,
    Thing,
)

_SHAPES, _COLORS = SHAPES[:BOX_SHAPE], COLORS[:BOX_COLOR]
_YES_NO = ("yes", "no")
_NUMBERS = ("0", "1", "2")
_SIZES = ("big", "small")
_PATTERNS = ("striped", "plain")
VQA_ANSWERS = (*_YES_NO, *_NUMBERS, *_COLORS, *_SHAPES, *_SIZES, *_PATTERNS)
GQA_ANSWERS = (*_YES_NO, *SIDES, *_COLORS, *_SHAPES, *_SIZES)
_NUM_HUMANS = 10
_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""Score of an answer by the number of people who gave it; 1.0 from 4 people on."""


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    answer: str
    options: tuple[str, ...]
    """The answers that the form of the question allows."""
    scene: int = 0
    """Index of the scene."""


MaybeQuestion: TypeAlias = Question | None
"""None if the template does not apply to the scene."""
QuestionTemplate: TypeAlias = Callable[[Scene, SceneRng], MaybeQuestion]


def vqa(scenes: Sequence[Scene], per_scene: int, *seed: str | int) -> list[Question]:
    """Return about `per_scene` questions for each scene, in the order of the scenes."""
    return _draw_questions(scenes, per_scene, _VQA, SceneRng(*seed, "vqa"))


def gqa(scenes: Sequence[Scene], per_scene: int, *seed: str | int) -> list[Question]:
    """Return about `per_scene` questions for each scene, in the order of the scenes."""
    return _draw_questions(scenes, per_scene, _GQA, SceneRng(*seed, "gqa"))


def human_answers(question: Question, error_rate: float, rng: SceneRng) -> dict[str, float]:
    """Return the scores of the answers of ten people, each wrong with probability `error_rate`."""
    counts = Counter(
        rng.pick(question.options) if rng.happens(error_rate) else question.answer
        for _ in range(_NUM_HUMANS)
    )
    return {answer: _SCORES[min(count, 4)] for answer, count in sorted(counts.items())}


def _draw_questions(
    scenes: Sequence[Scene], per_scene: int, templates: Sequence[QuestionTemplate], rng: SceneRng
) -> list[Question]:
    balance, questions = AnswerBalance(slack=2), []
    for number, scene in enumerate(scenes):
        texts: set[str] = set()
        for _ in range(4 * per_scene):
            question = rng.pick(templates)(scene, rng)
            if question is None or question.text in texts:
                continue
            if balance.count_if_balanced(question.text, question.answer, question.options):
                texts.add(question.text)
                questions.append(Question(question.text, question.answer, question.options, number))
            if len(texts) == per_scene:
                break
    return questions


def _yes_no(is_true: bool) -> str:
    return "yes" if is_true else "no"


def _color(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    things = unique_things(scene, "shape")
    if not things:
        return None
    thing = rng.pick(things)
    return Question(f"what color is the {SHAPES[thing.shape]}?", COLORS[thing.color], _COLORS)


def _shape(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    things = unique_things(scene, "color")
    if not things:
        return None
    thing = rng.pick(things)
    return Question(f"what shape is the {COLORS[thing.color]} thing?", SHAPES[thing.shape], _SHAPES)


def _size_or_pattern(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    things = unique_things(scene, "shape")
    if not things:
        return None
    thing = rng.pick(things)
    name = SHAPES[thing.shape]
    if rng.happens(0.5):
        return Question(f"is the {name} big or small?", _SIZES[not thing.big], _SIZES)
    return Question(f"is the {name} striped or plain?", _PATTERNS[not thing.striped], _PATTERNS)


def _exists(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    shape, color = (
        Description(shape=rng.below(BOX_SHAPE)),
        Description(color=rng.below(BOX_COLOR)),
    )
    description = rng.pick((shape, color))
    return Question(
        f"is there {description.with_article()}?", _yes_no(description.count(scene) > 0), _YES_NO
    )


def _exists_combined(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    """Ask for a shape in a colour. If the answer is no, both occur, but not in the same thing."""
    one, other = rng.sample(scene.non_box_things, 2)
    description = (
        describe_uniquely(one) if rng.happens(0.5) else Description(one.shape, other.color)
    )
    return Question(
        f"is there {description.with_article()}?", _yes_no(description.count(scene) > 0), _YES_NO
    )


def _how_many(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    number = rng.below(len(_NUMBERS))
    fitting = [
        description for description in SIMPLE_DESCRIPTIONS if description.count(scene) == number
    ]
    if not fitting:
        return None
    noun = rng.pick(fitting).noun(plural=True)
    return Question(f"how many {noun} are there?", str(number), _NUMBERS)


def _image_half(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    """Ask which half of the picture a thing is in."""
    things = [
        t for t in unique_things(scene, "shape") if abs(t.x - IMAGE_SIDE / 2) >= MIN_DISTANCE / 2
    ]
    if not things:
        return None
    thing = rng.pick(things)
    options = SIDES[:2]
    text = f"which side of the image is the {SHAPES[thing.shape]} on?"
    return Question(text, options[thing.x > IMAGE_SIDE / 2], options)


def _verify(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    things = unique_things(scene, "shape")
    if not things:
        return None
    thing = rng.pick(things)
    color = thing.color if rng.happens(0.5) else rng.below(BOX_COLOR)
    text = f"is the {SHAPES[thing.shape]} {COLORS[color]}?"
    return Question(text, _yes_no(color == thing.color), _YES_NO)


def _which_color(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    things = unique_things(scene, "shape")
    if not things:
        return None
    thing = rng.pick(things)
    wrong = rng.pick([color for color in range(BOX_COLOR) if color != thing.color])
    one, other = sorted((COLORS[thing.color], COLORS[wrong]))
    text = f"is the {SHAPES[thing.shape]} {one} or {other}?"
    return Question(text, COLORS[thing.color], (one, other))


def _pair(scene: Scene, rng: SceneRng) -> list[Thing]:
    """Draw two things with unique shapes; fewer if there are not two."""
    return rng.sample(unique_things(scene, "shape"), 2)


def _what_is_beside(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    """Ask for the colour or shape of the only thing on a certain side of another."""
    for other in rng.sample(unique_things(scene, "shape"), 3):
        vertical = rng.happens(0.5)
        placed = [
            (thing, relative_side(thing, other, vertical=vertical))
            for thing in scene.non_box_things
        ]
        for direction in rng.sample(SIDES[2 * vertical : 2 * vertical + 2], 2):
            matches = [thing for thing, actual in placed if actual == direction]
            if len(matches) == 1:
                place = f"{side_phrase(direction)} the {SHAPES[other.shape]}"
                if rng.happens(0.5):
                    text = f"what color is the thing {place}?"
                    return Question(text, COLORS[matches[0].color], _COLORS)
                return Question(f"what shape is {place}?", SHAPES[matches[0].shape], _SHAPES)
    return None


def _which_side(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    pair = _pair(scene, rng)
    vertical = rng.happens(0.5)
    if len(pair) < 2 or not (direction := relative_side(*pair, vertical=vertical)):
        return None
    one, other = (SHAPES[thing.shape] for thing in pair)
    first, second = options = SIDES[2 * vertical : 2 * vertical + 2]
    return Question(
        f"is the {one} {first} or {side_phrase(second)} the {other}?", direction, options
    )


def _same(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    pair = _pair(scene, rng)
    if len(pair) < 2:
        return None
    one, other = pair
    name, same = rng.pick(
        (
            ("color", one.color == other.color),
            ("size", one.big == other.big),
            ("pattern", one.striped == other.striped),
        )
    )
    nouns = f"the {SHAPES[one.shape]} and the {SHAPES[other.shape]}"
    return Question(f"are {nouns} the same {name}?", _yes_no(same), _YES_NO)


def _both(scene: Scene, rng: SceneRng) -> MaybeQuestion:
    """Ask for a shape and a colour. If the answer is no, one of the two occurs."""
    one, other = Description(shape=rng.below(BOX_SHAPE)), Description(color=rng.below(BOX_COLOR))
    if not one.count(scene) and not other.count(scene):
        return None
    is_true = one.count(scene) > 0 and other.count(scene) > 0
    return Question(
        f"are there {one.with_article()} and {other.with_article()}?", _yes_no(is_true), _YES_NO
    )


_VQA: tuple[QuestionTemplate, ...] = (
    *(_color, _color, _color, _shape, _shape, _shape, _exists, _exists, _exists),
    *(_size_or_pattern, _size_or_pattern, _exists_combined, _how_many),
)
_GQA: tuple[QuestionTemplate, ...] = (
    *(_which_color, _which_color, _which_color, _verify, _verify, _image_half, _image_half),
    *(_what_is_beside, _which_side, _same, _both),
)
"""Drawn uniformly."""
