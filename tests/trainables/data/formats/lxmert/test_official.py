"""LXMERT's files in the shapes of the authors' scripts are read as their loaders read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import published_files
from tests.support.official_files import load_obj_tsv, tsv_item, write_obj36
from tests.support.runs import RecordingSink
from trainables.data.formats import resolve_layout
from trainables.data.formats.json_stream import write_json
from trainables.data.formats.wordpiece import WordPiece
from trainables.data.open import open_data
from trainables.data.reference import LocalData
from trainables.data.schema.examples import Data, Regions
from trainables.errors import DataError
from trainables.run import RunInputs, run
from trainables.spec import ModelSpec, Recipe, TrainSpec
from trainables.tasks import TASKS

COUNTS = {"COCO_val2014_000000000042": 36, "n123456": 36, "2375429": 10}
ENTRIES = {
    "vqa": [
        {
            "answer_type": "other",
            "img_id": "COCO_val2014_000000000042",
            "label": {"red": 1, "no": 0.3},
            "question_id": 42000,
            "question_type": "what is",
            "sent": "What is the ball?",
        },
        {"img_id": "n123456", "label": {}, "question_id": 42001, "sent": "what"},
    ],
    "gqa": [
        {"img_id": "2375429", "label": {"yes": 1.0}, "question_id": "07", "sent": "is the ball"},
        {"img_id": "n123456", "label": {"unlisted": 1.0}, "question_id": "0007", "sent": "is"},
    ],
}


def write(root: Path, task: str) -> None:
    published_files.write_task(root, task, "lxmert")
    layout = resolve_layout(task, "lxmert", {})
    for files in (*layout.train, *layout.held_out):
        write_obj36(root / files.images[0], [tsv_item(*each) for each in COUNTS.items()])
        write_json(root / files.texts, ENTRIES[task])


def read(root: Path, task: str, region_features: str) -> Data:
    return open_data(
        LocalData(root),
        root / "cache",
        published_files.task_spec(root, task, "lxmert"),
        "lxmert",
        image_size=0,
        patch_size=0,
        region_features=region_features,
    )


@pytest.mark.parametrize("task", ["vqa", "gqa"])
def test_files_of_the_authors_scripts_are_read(tmp_path: Path, task: str) -> None:
    write(tmp_path, task)
    data = read(tmp_path, task, "float32")
    split = data.held_out
    entries = ENTRIES[task]
    assert list(split.keys) == [str(entry["question_id"]) for entry in entries]
    for number, entry in enumerate(entries):
        # `target[ans2label[answer]] = score`; in GQA, only for answers in the list.
        target = np.zeros(len(data.answers), np.float32)
        for answer, score in entry["label"].items():  # type: ignore[attr-defined]
            if answer in data.answers:
                target[data.answers.index(answer)] = score
        actual = np.zeros_like(target)
        (labels,), (scores,) = (
            each.rows(np.array([number])) for each in (split.labels, split.scores)
        )
        actual[labels] = scores
        np.testing.assert_array_equal(actual, target)
    assert isinstance(split.image_data, Regions)
    layout = resolve_layout(task, "lxmert", {})
    images = load_obj_tsv(tmp_path / layout.held_out[0].images[0])
    for number, entry in enumerate(entries):
        image = images[str(entry["img_id"])]
        (features,) = split.image_data.features.rows(split.images[number])
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, image["features"])
        (boxes,) = split.image_data.boxes.rows(split.images[number])
        np.testing.assert_array_equal(boxes[:, :4], image["boxes"])
        assert len(boxes) == COUNTS[str(entry["img_id"])]


def test_region_features_may_be_rounded_to_half_the_size(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "vqa", "lxmert")
    half, full = (read(tmp_path, "vqa", name).train.image_data for name in ("float16", "float32"))
    assert isinstance(half, Regions)
    assert isinstance(full, Regions)
    for number in range(len(full)):
        row = np.array([number])
        (rounded,), (exact,) = half.features.rows(row), full.features.rows(row)
        assert rounded.dtype == np.float16
        np.testing.assert_array_equal(rounded, exact.astype(np.float16))
        assert (rounded != exact).any()
    # One cache each: neither was read from the other's files.
    sizes = sorted(file.stat().st_size for file in tmp_path.rglob("train.images.arrow"))
    assert len(sizes) == 2
    assert 1.3 * sizes[0] < sizes[1]


def test_features_too_large_for_float16_are_refused_there(tmp_path: Path) -> None:
    write(tmp_path, "vqa")
    with pytest.raises(DataError, match=r"obj36.tsv: image \S+: features: values that are not fin"):
        read(tmp_path, "vqa", "float16")


def test_published_recipes_read_what_the_authors_read() -> None:
    """LXMERT's loaders read float32; UNITER's read the float16 of their files."""
    for task in ("vqa", "gqa", "nlvr2"):
        assert TASKS[task].recipes["lxmert"].region_features == "float32"
        assert TASKS[task].recipes["uniter"].region_features == "float16"
    assert Recipe().region_features == "float16"


def test_a_word_may_be_a_separator_of_lines(tmp_path: Path) -> None:
    """Ids are the numbers of the lines that end in a line feed."""
    words = ["[PAD]", "[UNK]", "\x85", "\u2028", "[CLS]", "[SEP]", "[MASK]", "!", "ball"]
    for end in ("\n", ""):
        (tmp_path / "vocab.txt").write_text("\n".join(words) + end)
        vocabulary = WordPiece(tmp_path / "vocab.txt", 20).vocabulary
        assert (vocabulary.cls, vocabulary.first, vocabulary.size) == (4, 7, 9)


def test_a_run_reads_them_as_its_recipe_says(tmp_path: Path) -> None:
    write(tmp_path, "vqa")
    overrides = (("region_dim", 8), ("vocab_size", len(published_files.VOCAB)))
    spec = TrainSpec(
        model=ModelSpec(architecture="lxmert", size="tiny", overrides=overrides),
        task=published_files.task_spec(tmp_path, "vqa", "lxmert"),
        recipe=Recipe(steps=1, batch_size=2, region_features="float32"),
    )
    inputs = RunInputs(data=tmp_path, cache=tmp_path / "cache")
    outcome = run(spec, inputs, RecordingSink(), prunes={}, rewinds=())
    assert 0 <= outcome.scores["score"] <= 100
    rounded = replace(spec, recipe=replace(spec.recipe, region_features="float16"))
    with pytest.raises(DataError, match="features: values that are not finite"):
        run(rounded, inputs, RecordingSink(), prunes={}, rewinds=())
