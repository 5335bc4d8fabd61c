"""Write scenes as ViLT's and METER's tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from trainables.data.formats.vilt import FORMAT
from trainables.data.formats.vilt.arrow import write_table
from trainables.data.scenes import render
from trainables.data.scenes.dataset import (
    ANSWER_LISTS,
    SceneDataset,
    SceneExample,
    SplitShare,
    WriteJob,
    examples_of,
    split_shares,
)
from trainables.data.scenes.vocabulary import write_vocabulary
from trainables.seeds import Rng

_PngOf: TypeAlias = Callable[[int], bytes]
"""Returns the picture of a scene as PNG."""


def jobs(dataset: SceneDataset) -> Iterator[WriteJob]:
    @cache  # drawing is the slowest step, and up to four tables have the same scene
    def png_of(scene: int) -> bytes:
        rng = Rng(dataset.seed, "picture", scene)
        return render.encode_png(
            render.render_scene(dataset.scenes[scene], dataset.difficulty, rng)
        )

    for share in split_shares(dataset, "vilt"):
        yield WriteJob(
            share.files.texts, len(share.scenes), partial(_write_table, dataset, share, png_of)
        )
    yield WriteJob(FORMAT.layouts["vqa"].vocabulary_file, 0, write_vocabulary)


def _write_table(dataset: SceneDataset, share: SplitShare, png_of: _PngOf, file: Path) -> None:
    """Write one row for each scene, or pair of scenes, with all its texts."""

    def rows() -> Iterator[dict[str, Any]]:
        for scenes, group in groupby(
            examples_of(dataset, share), key=lambda example: example.scenes
        ):
            examples = list(group)
            pictures = [png_of(scene) for scene in scenes]
            images = {f"image_{n}": png for n, png in enumerate(pictures)}
            yield (images if len(pictures) > 1 else {"image": pictures[0]}) | _ROWS[share.task](
                dataset, share, examples
            )

    write_table(file, FORMAT.layouts[share.task].records, rows())


def _questions(
    dataset: SceneDataset, share: SplitShare, examples: Sequence[SceneExample]
) -> dict[str, Any]:
    labels = ANSWER_LISTS[share.task]
    return {
        "questions": [example.text for example in examples],
        "answers": [list(example.scores) for example in examples],
        "answer_labels": [
            [labels.index(answer) for answer in example.scores] for example in examples
        ],
        "answer_scores": [list(example.scores.values()) for example in examples],
        "image_id": examples[0].scenes[0],
        "question_id": [example.example_id for example in examples],
        "split": share.split,
    }


def _statements(
    dataset: SceneDataset, share: SplitShare, examples: Sequence[SceneExample]
) -> dict[str, Any]:
    return {
        "questions": [example.text for example in examples],
        "answers": [answer for example in examples for answer in example.scores],
        "identifier": f"{share.split}-{examples[0].scenes[0]}",
    }


def _hypotheses(
    dataset: SceneDataset, share: SplitShare, examples: Sequence[SceneExample]
) -> dict[str, Any]:
    """METER orders the labels differently from UNITER."""
    names = FORMAT.layouts[share.task].answer_names
    premise = dataset.premises[examples[0].scenes[0]]
    return {
        "sentences": [[premise, example.text] for example in examples],
        "labels": [names.index(label) for example in examples for label in example.scores],
    }


def _captions(
    dataset: SceneDataset, share: SplitShare, examples: Sequence[SceneExample]
) -> dict[str, Any]:
    return {
        "caption": [example.text for example in examples],
        "image_id": f"{examples[0].scenes[0]}.png",
        "split": share.split,
    }


_ROWS: dict[str, Callable[[SceneDataset, SplitShare, Sequence[SceneExample]], dict[str, Any]]] = {
    "vqa": _questions,
    "nlvr2": _statements,
    "snli_ve": _hypotheses,
    "retrieval": _captions,
}
