"""The examples of all tasks on one set of scenes, independent of their format.

All tasks share the training scenes and the held-out scenes, and the texts, targets and scenes of a
task are the same in all formats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from trainables.data.formats import FORMATS
from trainables.data.scenes import captions, detector, entailment, pairs, questions, vcr, world
from trainables.data.scenes.detector import Detections
from trainables.data.scenes.expressions import Expression, expressions
from trainables.data.scenes.rng import SceneRng
from trainables.data.scenes.vcr import VcrItem
from trainables.data.scenes.world import Scene
from trainables.data.schema.layouts import SplitFiles

ANSWER_LISTS: Mapping[str, Sequence[str]] = {
    "vqa": questions.VQA_ANSWERS,
    "gqa": questions.GQA_ANSWERS,
}
"""The answers in the order of their labels, for the tasks whose formats have a file of answers."""
_TRAIN_PER_HELD_OUT = 5
"""Training scenes per held-out scene."""
_HELD_OUT_PER_RETRIEVAL = 6
"""Held-out scenes per scene of retrieval's `val`, and of its `test`. Every caption is scored
against every picture, so 100 pictures with 3 captions already make 30,000 pairs."""
_EXAMPLES_PER_SCENE = {"vqa": 3, "gqa": 3, "snli_ve": 4, "nlvr2": 6, "vcr": 2, "refcoco": 3}
"""For NLVR2, per pair of scenes."""
_CAPTIONS, _CAPTIONS_HELD_OUT = 5, 3
_STATEMENTS, _STATEMENTS_HELD_OUT = 8, 2
_BASE_ERROR_RATE, _ADDED_ERROR_RATE = 0.05, 0.1
"""Probability of a wrong human answer to a VQA question at difficulty 0, and the increase up to
difficulty 1."""


@dataclass(frozen=True, slots=True)
class SceneExample:
    """A text about one or two scenes."""

    text: str
    scenes: tuple[int, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    """By answer; empty for captions."""
    index: int = 0
    """Number among the examples of the same scenes."""

    @property
    def example_id(self) -> int:
        """A number that is unique within a task."""
        return 100 * self.scenes[0] + self.index


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneDataset:
    """Scenes are numbered by their index in `scenes`. The splits are `train` and `held_out`;
    retrieval has `val` and `test` instead of `held_out`."""

    seed: int
    difficulty: float
    scenes: Sequence[Scene]
    """The training scenes come first."""
    num_train: int
    """Number of training scenes."""
    detected: Sequence[Detections]
    """Per scene, the regions that the detector finds."""
    annotated: Sequence[Detections]
    """Per scene, the true boxes with the detector's predictions."""
    premises: Sequence[str]
    """One caption per scene."""
    examples: Mapping[tuple[str, str], Sequence[SceneExample]]
    """By task and split."""
    vcr_items: Mapping[str, Sequence[VcrItem]]
    """By split."""
    expressions: Mapping[str, Sequence[Expression]]
    """RefCOCO+'s, by split."""

    def scene_range(self, split: str) -> range:
        """Return the numbers of the scenes of a split."""
        if split == "train":
            return range(self.num_train)
        count = _num_retrieval(len(self.scenes) - self.num_train)
        first = self.num_train + count * (split == "test")
        return range(first, first + count if split in ("val", "test") else len(self.scenes))


@dataclass(frozen=True, slots=True)
class SplitShare:
    """A file of a task's examples, and the scenes that it covers."""

    task: str
    split: str
    files: SplitFiles
    scenes: range


@dataclass(frozen=True, slots=True)
class WriteJob:
    """A file or folder to write."""

    path: str
    """Relative to the data folder."""
    size: int
    """Number of scenes."""
    write: Callable[[Path], object]


_Drawn: TypeAlias = Iterable[tuple[str, tuple[int, ...], Mapping[str, float]]]
"""Text, scenes, and scores by answer."""


def generate(images: int, difficulty: float, seed: int) -> SceneDataset:
    """Draw `images` training scenes, `images` // 5 held-out scenes, and their examples."""
    scenes: list[Scene] = []
    detected: list[Detections] = []
    annotated: list[Detections] = []
    premises: list[str] = []
    examples: dict[tuple[str, str], list[SceneExample]] = {}
    vcr_items, referring = {}, {}
    for split, count in (("train", images), ("held_out", images // _TRAIN_PER_HELD_OUT)):
        first, new_scenes = len(scenes), world.draw_scenes(count, difficulty, seed, split)
        scenes += new_scenes
        detected += detector.detect(new_scenes, difficulty, seed, split)
        annotated += detector.annotated(new_scenes, difficulty, seed, split)
        for texts in captions.captions(new_scenes, 1, seed, split, "premises"):
            premises += texts
        for task, drawn in _draw_tasks(new_scenes, difficulty, seed, split):
            examples[task, split] = _numbered(drawn, first)
        vcr_items[split] = [
            replace(item, scene=item.scene + first)
            for item in vcr.vcr_items(new_scenes, _EXAMPLES_PER_SCENE["vcr"], seed, split)
        ]
        referring[split] = [
            replace(expression, scene=expression.scene + first)
            for expression in expressions(new_scenes, _EXAMPLES_PER_SCENE["refcoco"], seed, split)
        ]
        retrieval_splits = {"val": 0, "test": _num_retrieval(count)} if split == "held_out" else {}
        for part, start in retrieval_splits.items():
            captioned = new_scenes[start : start + _num_retrieval(count)]
            lists = captions.captions(captioned, _CAPTIONS_HELD_OUT, seed, part)
            examples["retrieval", part] = _numbered(_per_scene(lists), first + start)
    return SceneDataset(
        seed=seed,
        difficulty=difficulty,
        scenes=scenes,
        num_train=images,
        detected=detected,
        annotated=annotated,
        premises=premises,
        examples=examples,
        vcr_items=vcr_items,
        expressions=referring,
    )


def split_shares(dataset: SceneDataset, file_format: str) -> Iterator[SplitShare]:
    """Yield all files of examples of a format. If a split has several, its scenes are divided into
    equal ranges."""
    for task, published in FORMATS[file_format].layouts.items():
        layout = published.resolve(task, {})
        splits = {"train": layout.train, "held_out": layout.held_out}
        if "split" in layout.options:
            del splits["held_out"]
            for split in published.choices["split"]:
                splits[split] = published.resolve(task, {"split": split}).held_out
        for split, split_files in splits.items():
            scenes, count = dataset.scene_range(split), len(split_files)
            edges = [len(scenes) * part // count for part in range(count + 1)]
            for files, (start, end) in zip(split_files, pairwise(edges), strict=True):
                yield SplitShare(task, split, files, scenes[start:end])


def examples_of(dataset: SceneDataset, share: SplitShare) -> list[SceneExample]:
    """Return the examples of a file in the order of the scenes; not for VCR and RefCOCO+."""
    examples = dataset.examples[share.task, share.split]
    return [example for example in examples if example.scenes[0] in share.scenes]


def _num_retrieval(held_out: int) -> int:
    return held_out // _HELD_OUT_PER_RETRIEVAL


def _draw_tasks(
    scenes: Sequence[Scene], difficulty: float, seed: int, split: str
) -> Iterator[tuple[str, _Drawn]]:
    """Yield each task's name and examples."""
    vqa_questions = questions.vqa(scenes, _EXAMPLES_PER_SCENE["vqa"], seed, split)
    rng = SceneRng(seed, split, "humans")
    error_rate = _BASE_ERROR_RATE + _ADDED_ERROR_RATE * difficulty
    scores = [questions.human_answers(question, error_rate, rng) for question in vqa_questions]
    scored_questions = zip(vqa_questions, scores, strict=True)
    yield "vqa", [(q.text, (q.scene,), each) for q, each in scored_questions]
    gqa_questions = questions.gqa(scenes, _EXAMPLES_PER_SCENE["gqa"], seed, split)
    yield "gqa", [(q.text, (q.scene,), {q.answer: 1.0}) for q in gqa_questions]
    hypotheses = entailment.hypotheses(scenes, _EXAMPLES_PER_SCENE["snli_ve"], seed, split)
    yield "snli_ve", [(h.text, (h.scene,), {h.label: 1.0}) for h in hypotheses]
    claims = pairs.claims(scenes[: len(scenes) // 2 * 2], _EXAMPLES_PER_SCENE["nlvr2"], seed, split)
    yield "nlvr2", [(c.text, _pair(c.pair), {str(c.is_true): 1.0}) for c in claims]
    if split == "train":
        yield "retrieval", _per_scene(captions.captions(scenes, _CAPTIONS, seed, split))
    count = _STATEMENTS if split == "train" else _STATEMENTS_HELD_OUT
    yield "pretraining", _per_scene(captions.statements(scenes, count, seed, split))


def _pair(number: int) -> tuple[int, int]:
    return 2 * number, 2 * number + 1


def _per_scene(texts: Sequence[Sequence[str]]) -> _Drawn:
    return [(text, (scene,), {}) for scene, each in enumerate(texts) for text in each]


def _numbered(drawn: _Drawn, first: int) -> list[SceneExample]:
    """Build the examples; scene 0 of `drawn` is scene `first` of the dataset."""
    counts: Counter[tuple[int, ...]] = Counter()
    examples = []
    for text, scenes, scores in drawn:
        numbers = tuple(first + n for n in scenes)
        examples.append(SceneExample(text, numbers, scores, counts[scenes]))
        counts[scenes] += 1
    return examples
