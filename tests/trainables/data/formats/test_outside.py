"""A data format in one file from outside the package is checked and read like the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import published_files
from tests.support.outside_data import LINES, REGION_DIM, VOCABULARY_SIZE, installed, write_lines
from tests.support.plugins import registered
from trainables.data.check import check_folder
from trainables.data.formats import FORMATS, FormatEntry, Layout, choose_format, task_files
from trainables.data.open import open_data
from trainables.data.reference import LocalData
from trainables.data.schema.fields import SOFT_TARGETS
from trainables.data.schema.layouts import SplitFiles
from trainables.errors import DataError, PluginError
from trainables.parts import check_part_sources, part_sources
from trainables.seeds import Rng
from trainables.spec import ModelSpec, Recipe, TaskSpec, TrainSpec
from trainables.tasks import vqa
from trainables.tasks.base import TaskSource
from trainables.training.start import init_backbone

OVERRIDES = (("region_dim", REGION_DIM), ("vocab_size", VOCABULARY_SIZE))
UNITER = ModelSpec(architecture="uniter", size="tiny", overrides=OVERRIDES)


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with installed(LINES):
        yield


def spec(root: Path) -> TaskSpec:
    data = LocalData(root).fingerprint(task_files("vqa", "lines", {}))
    return TaskSpec(name="vqa", data=data, format="lines")


def open_vqa(root: Path) -> vqa.VqaTask:
    return vqa.open_task(
        TaskSource(root, root / "cache"), spec(root), init_backbone(UNITER, 0, 0.0)
    )


def test_a_model_of_the_same_modality_reads_it(tmp_path: Path) -> None:
    write_lines(tmp_path)
    task = open_vqa(tmp_path)
    assert (len(task.lengths()), task.num_eval) == (6, 6)
    batch = task.train_batch(np.array([1, 5]), Rng(0, "batch", 0, 0))
    assert batch["input_ids"].tolist() == [[1, 6, 2], [1, 10, 2]]
    assert batch["region_features"][:, 0, 0].tolist() == [1.0, 2.0]
    assert batch["targets"].tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_data_check_counts_it(tmp_path: Path) -> None:
    write_lines(tmp_path)
    result = check_folder(tmp_path)
    assert result.findings == ()
    train, held_out = result.counts
    assert (train.format, train.examples, train.images, train.longest_image) == ("lines", 6, 3, 4)
    assert held_out.split == "held out"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tokens": [1, 50, 2]}, "texts: 50 is not an integer from 0 to 49"),
        ({"labels": [2]}, "labels: 2 is not an integer from 0 to 1"),
        ({"scores": [float("nan")]}, "scores: nan is not a number from 0 to 1"),
        ({"scores": []}, "scores: 0 values, not 1"),
    ],
)
def test_training_and_data_check_refuse_the_same_values(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    write_lines(tmp_path, **change)
    message = f"{tmp_path}/lines/train.jsonl: record train-2: {problem}; "
    (finding,) = check_folder(tmp_path).findings
    assert finding.startswith(message)
    with pytest.raises(DataError) as caught:
        open_vqa(tmp_path)
    assert str(caught.value).startswith(message)


def test_only_what_the_model_reads_fits() -> None:
    assert choose_format("vqa", "uniter") == "uniter"
    assert choose_format("vqa", "lxmert", "lines") == "lines"
    with pytest.raises(DataError, match="format lines holds regions, vilt reads pixels"):
        choose_format("vqa", "vilt", "lines")
    with pytest.raises(DataError, match=r"nlvr2: has no data in the format lines; formats with: u"):
        choose_format("nlvr2", "uniter", "lines")


def test_the_source_of_the_reader_is_checked_where_the_trial_runs(tmp_path: Path) -> None:
    write_lines(tmp_path)
    task, recipe = spec(tmp_path), Recipe()
    sources = part_sources(UNITER, task, recipe)
    assert sources == (("sweepstakes.formats/lines", LINES.sha256),)
    trial = TrainSpec(model=UNITER, task=task, recipe=recipe, sources=sources)
    check_part_sources(trial)
    FORMATS.add("lines", FORMATS["lines"], "0" * 64)
    with pytest.raises(PluginError, match=r"sweepstakes\.formats 'lines': .* another version"):
        check_part_sources(trial)
    # The built-in formats and their keys have none.
    assert part_sources(UNITER, replace(task, format=""), recipe) == ()


def test_a_task_of_ones_own_reuses_the_reader_of_a_format(tmp_path: Path) -> None:
    layout = Layout(
        records="answers",
        train=(SplitFiles("cp/train.db", ("cp/images",)),),
        held_out=(SplitFiles("cp/test.db", ("cp/images",)),),
        answers_file="cp/ans2label.json",
        max_tokens=60,
        example=SOFT_TARGETS,
    )
    entry = FormatEntry(
        module=FORMATS["uniter"].module, modality="regions", layouts={"vqa_cp": layout}
    )
    published_files.write_uniter_files(tmp_path, "vqa", layout)
    with registered(FORMATS, "cp", entry):
        (count, _) = check_folder(tmp_path).counts
        reference = LocalData(tmp_path)
        data = reference.fingerprint(task_files("vqa_cp", "cp", {}))
        opened = open_data(
            reference,
            tmp_path / "cache",
            TaskSpec(name="vqa_cp", data=data),
            "cp",
            image_size=0,
            patch_size=0,
        )
    assert (count.task, count.format) == ("vqa_cp", "cp")
    assert len(opened.train) == count.examples == published_files.NUM_EXAMPLES
    assert opened.answers == published_files.PUBLISHED_ANSWERS
