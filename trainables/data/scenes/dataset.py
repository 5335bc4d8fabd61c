"""All that is written about one set of scenes, before it takes any format.

Every task looks at the same training scenes and is scored on the same held-out ones, and a task's
sentences, targets and scenes are the same in all formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from trainables.data.scenes import captions, detector, entailment, pairs, questions, vcr, world
from trainables.data.scenes.detector import Seen
from trainables.data.scenes.expressions import Expression, expressions
from trainables.data.scenes.rng import Dice
from trainables.data.scenes.vcr import Riddle
from trainables.data.scenes.world import Scene
from trainables.data.schema.layouts import LAYOUTS, Part, layout
from trainables.models import Format

ANSWERS: Mapping[str, Sequence[str]] = {
    "vqa": questions.VQA_ANSWERS,
    "gqa": questions.GQA_ANSWERS,
}
"""Of the tasks whose formats have a file of answers, by label."""
_HELD_OUT = 5
"""There is one held-out scene for so many training ones."""
_RETRIEVED = 6
"""One of so many held-out scenes is retrieval's `val`, another its `test`: every caption is scored
against every picture, so 100 pictures with 3 captions already cost 30,000 pairs."""
_EACH = {"vqa": 3, "gqa": 3, "snli_ve": 4, "nlvr2": 6, "vcr": 2, "refcoco": 3}
"""Examples of a scene; of a pair of scenes for NLVR2."""
_CAPTIONS, _CAPTIONS_HELD_OUT = 5, 3
_STATEMENTS, _STATEMENTS_HELD_OUT = 8, 2
_DOUBT, _MORE_DOUBT = 0.05, 0.1
"""Chance that a human errs on a question of VQA, at difficulty 0, and what difficulty 1 adds."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sentence on one scene or two."""

    text: str
    scenes: tuple[int, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    """By answer; of captions, none."""
    place: int = 0
    """Among those on the same scenes."""

    @property
    def number(self) -> int:
        """Its own within the book's items of a task."""
        return 100 * self.scenes[0] + self.place


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """Numbers of scenes are places in `scenes`; splits are `train`, `held_out`, and for retrieval
    `val` and `test` instead."""

    seed: int
    difficulty: float
    scenes: Sequence[Scene]
    """Those of training come first."""
    train: int
    """Their number."""
    detected: Sequence[Seen]
    annotated: Sequence[Seen]
    premises: Sequence[str]
    """A caption of every scene."""
    items: Mapping[tuple[str, str], Sequence[Item]]
    """By task and split."""
    riddles: Mapping[str, Sequence[Riddle]]
    """VCR, by split."""
    expressions: Mapping[str, Sequence[Expression]]
    """RefCOCO+, by split."""

    def numbers(self, split: str) -> range:
        """Of the scenes of a split."""
        if split == "train":
            return range(self.train)
        shown = _retrieved(len(self.scenes) - self.train)
        first = self.train + shown * (split == "test")
        return range(first, first + shown if split in ("val", "test") else len(self.scenes))


@dataclass(frozen=True, slots=True)
class Share:
    """A file of a task's examples, and which scenes these are on."""

    task: str
    split: str
    part: Part
    scenes: range


@dataclass(frozen=True, slots=True)
class Job:
    """A file or folder to write."""

    path: str
    """Below the data folder."""
    size: int
    """Scenes in it."""
    write: Callable[[Path], object]


_Found: TypeAlias = Iterable[tuple[str, tuple[int, ...], Mapping[str, float]]]
"""Text, scenes and scores."""


def compose(images: int, difficulty: float, seed: int) -> Book:
    """`images` training scenes, `images` / 5 held-out ones, and what is said of them."""
    scenes: list[Scene] = []
    detected: list[Seen] = []
    annotated: list[Seen] = []
    premises: list[str] = []
    items: dict[tuple[str, str], list[Item]] = {}
    riddles, referring = {}, {}
    for split, count in (("train", images), ("held_out", images // _HELD_OUT)):
        first, own = len(scenes), world.draw(count, difficulty, seed, split)
        scenes += own
        detected += detector.detect(own, difficulty, seed, split)
        annotated += detector.annotated(own, difficulty, seed, split)
        for said in captions.captions(own, 1, seed, split, "premises"):
            premises += said
        for task, found in _said(own, difficulty, seed, split):
            items[task, split] = _numbered(found, first)
        riddles[split] = [
            replace(riddle, scene=riddle.scene + first)
            for riddle in vcr.riddles(own, _EACH["vcr"], seed, split)
        ]
        referring[split] = [
            replace(said, scene=said.scene + first)
            for said in expressions(own, _EACH["refcoco"], seed, split)
        ]
        for part, start in (("val", 0), ("test", _retrieved(count))) * (split == "held_out"):
            shown = own[start : start + _retrieved(count)]
            listed = captions.captions(shown, _CAPTIONS_HELD_OUT, seed, part)
            items["retrieval", part] = _numbered(_each(listed), first + start)
    return Book(
        seed=seed,
        difficulty=difficulty,
        scenes=scenes,
        train=images,
        detected=detected,
        annotated=annotated,
        premises=premises,
        items=items,
        riddles=riddles,
        expressions=referring,
    )


def shares(book: Book, form: Format) -> Iterator[Share]:
    """All files of examples of a format. Where a split has several, its scenes are dealt out in
    equal runs."""
    for task in [task for task, each in LAYOUTS if each == form]:
        found = layout(task, form, {})
        splits = {"train": found.train, "held_out": found.held_out}
        if "split" in found.options:
            del splits["held_out"]
            for split in ("val", "test"):
                splits[split] = layout(task, form, {"split": split}).held_out
        for split, parts in splits.items():
            numbers = book.numbers(split)
            edges = [len(numbers) * part // len(parts) for part in range(len(parts) + 1)]
            for part, (start, end) in zip(parts, pairwise(edges), strict=True):
                yield Share(task, split, part, numbers[start:end])


def items_of(book: Book, share: Share) -> list[Item]:
    """Its examples, of all tasks but VCR and RefCOCO+, in the scenes' order."""
    items = book.items[share.task, share.split]
    return [item for item in items if item.scenes[0] in share.scenes]


def _retrieved(held_out: int) -> int:
    return held_out // _RETRIEVED


def _said(
    scenes: Sequence[Scene], difficulty: float, seed: int, split: str
) -> Iterator[tuple[str, _Found]]:
    """Task by task."""
    asked = questions.vqa(scenes, _EACH["vqa"], seed, split)
    dice, doubt = Dice(seed, split, "humans"), _DOUBT + _MORE_DOUBT * difficulty
    scored = [questions.human_answers(question, doubt, dice) for question in asked]
    yield "vqa", [(q.text, (q.scene,), given) for q, given in zip(asked, scored, strict=True)]
    asked = questions.gqa(scenes, _EACH["gqa"], seed, split)
    yield "gqa", [(q.text, (q.scene,), {q.answer: 1.0}) for q in asked]
    guessed = entailment.hypotheses(scenes, _EACH["snli_ve"], seed, split)
    yield "snli_ve", [(h.text, (h.scene,), {h.label: 1.0}) for h in guessed]
    claims = pairs.claims(scenes[: len(scenes) // 2 * 2], _EACH["nlvr2"], seed, split)
    yield "nlvr2", [(c.text, _pair(c.pair), {str(c.holds): 1.0}) for c in claims]
    if split == "train":
        yield "retrieval", _each(captions.captions(scenes, _CAPTIONS, seed, split))
    stated = _STATEMENTS if split == "train" else _STATEMENTS_HELD_OUT
    yield "pretraining", _each(captions.statements(scenes, stated, seed, split))


def _pair(number: int) -> tuple[int, int]:
    return 2 * number, 2 * number + 1


def _each(texts: Sequence[Sequence[str]]) -> _Found:
    return [(text, (scene,), {}) for scene, said in enumerate(texts) for text in said]


def _numbered(found: _Found, first: int) -> list[Item]:
    """The scenes' numbers start at `first`."""
    places: Counter[tuple[int, ...]] = Counter()
    items = []
    for text, scenes, scores in found:
        items.append(Item(text, tuple(first + n for n in scenes), scores, places[scenes]))
        places[scenes] += 1
    return items
