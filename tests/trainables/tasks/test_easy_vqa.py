"""The task on the real data, for region and pixel models."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainables.data.augmentation.apply import Augmentation
from trainables.data.fingerprint import fingerprint
from trainables.errors import DataError, TrainableError
from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.seeds import Rng
from trainables.spec import ModelSpec, Options, TaskSpec
from trainables.tasks import TASKS
from trainables.tasks.base import TaskSource
from trainables.tasks.easy_vqa import EasyVqaTask, open_task
from trainables.training.network import Network

ARCHITECTURES = list(TASKS["easy_vqa"].recipes)
RNG = Rng(0)


@pytest.fixture(scope="module")
def data() -> Path:
    folder = TASKS["easy_vqa"].shipped_data()
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def few(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 60 train and 30 test images of the real data, with their questions."""
    folder = tmp_path_factory.mktemp("few")
    for split, count in (("train", 60), ("test", 30)):
        (folder / split / "images").mkdir(parents=True)
        questions = json.loads((data / split / "questions.json").read_text())
        entries = [entry for entry in questions if entry[2] < count]
        (folder / split / "questions.json").write_text(json.dumps(entries))
        for number in range(count):
            image = Path(split, "images", f"{number}.png")
            shutil.copy(data / image, folder / image)
    return folder


def _backbone(name: str, overrides: Options = ()) -> Backbone:
    torch.manual_seed(0)
    backbone: Backbone = import_module(MODELS[name].module).build(
        ModelSpec(architecture=name, size="tiny", overrides=overrides), dropout=0.0
    )
    return backbone


def _open(name: str, data: Path, overrides: Options = ()) -> EasyVqaTask:
    spec = TaskSpec(name="easy_vqa", data=fingerprint(data))
    return open_task(TaskSource(data, data), spec, _backbone(name, overrides))


def test_the_fingerprint_of_the_shipped_data_is_unchanged(data: Path) -> None:
    expected = "c6fed0c94721034d597a8969e9782d59e4aecd2ef715979c7686a3fd2dc26376"
    assert fingerprint(data) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes_and_prior(name: str, data: Path) -> None:
    task = _open(name, data)
    assert (len(task.lengths()), task.num_eval) == (38575, 9673)
    assert round(task.prior, 1) == 67.0


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batches_fit_the_model_and_are_deterministic(name: str, few: Path) -> None:
    task, model = _open(name, few), _backbone(name)
    again = _open(name, few)
    rows = np.array([5, len(task.lengths()) - 1, 5])
    first, second = task.train_batch(rows, RNG), again.train_batch(rows, RNG)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        assert torch.equal(value[0], value[2]), key
    encoded = model(first)
    logits = task.build_head(model)(encoded, first)
    assert logits.shape == (3, 13)
    assert torch.isfinite(task.loss(logits, first))
    tokens = first["text_mask"].sum(dim=1)
    if name == "uniter":
        tokens = tokens + encoded.image.shape[1]
    assert task.lengths()[rows].tolist() == tokens.tolist()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inputs_are_standardised(name: str, few: Path) -> None:
    task = _open(name, few)
    batch = task.train_batch(np.arange(len(task.lengths())), RNG)
    images = batch["region_features" if name == "uniter" else "pixel_values"]
    assert abs(images.mean().item()) < 0.05
    assert abs(images.std().item() - 1) < 0.05


def test_inputs_have_the_size_of_the_model(few: Path) -> None:
    wide = _open("uniter", few, (("region_dim", 2048),)).train_batch(np.arange(2), RNG)
    assert wide["region_features"].shape[-1] == 2048
    assert (wide["region_features"][..., 26 * 26 * 3 :] == 0).all()
    large = _open("vilt", few, (("image_size", 96),)).train_batch(np.arange(2), RNG)
    assert large["pixel_values"].shape == (2, 3, 96, 96)


def test_evaluation_has_a_fixed_order(few: Path) -> None:
    task = _open("uniter", few)
    sizes = [len(batch["labels"]) for batch in task.eval_batches(64, 150)]
    assert sizes == [64, 64, 22]
    every = torch.cat([batch["labels"] for batch in task.eval_batches(4000, 0)])
    assert len(every) == task.num_eval
    first = torch.cat([batch["labels"] for batch in task.eval_batches(64, 150)])
    assert torch.equal(every[:150], first)


def test_scores_are_accuracies_by_kind_of_answer(data: Path) -> None:
    task = _open("uniter", data)
    batches = list(task.eval_batches(512, 0))
    perfect = [(nn.functional.one_hot(b["labels"], 13).float(), b) for b in batches]
    assert task.score(perfect) == {"score": 100, "yes_no": 100, "shape": 100, "color": 100}
    yes = torch.zeros(13).index_fill(0, torch.tensor([0]), 1.0)
    always_yes = task.score((yes.expand(len(b["labels"]), 13), b) for b in batches)
    assert always_yes["score"] == pytest.approx(100 * 3611 / 9673)
    assert always_yes["yes_no"] == pytest.approx(100 * 3611 / 7136)
    assert always_yes["shape"] == always_yes["color"] == 0


def test_inputs_depend_on_question_and_image_only(few: Path) -> None:
    """Inputs do not contain information on the answer beyond the question and the image."""
    task = _open("uniter", few)
    batch = task.train_batch(np.arange(len(task.lengths())), RNG)
    assert set(batch) == {"input_ids", "text_mask", "labels", "region_features", "region_boxes"}
    texts = {tuple(row) for row in batch["input_ids"].tolist()}
    assert len(texts) <= 107  # number of question texts
    boxes = {tuple(row) for row in batch["region_boxes"].flatten(1).tolist()}
    assert len(boxes) <= 60  # number of images


def test_training_beats_the_question_only_prior(data: Path) -> None:
    task, model = _open("uniter", data), _backbone("uniter")
    net = Network(model, task.build_head(model))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    order = np.random.default_rng(0).permutation(len(task.lengths()))
    for rows in order[: 120 * 64].reshape(120, 64):
        batch = task.train_batch(rows, RNG)
        loss = task.loss(net(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        scores = task.score((net(b), b) for b in task.eval_batches(500, 1000))
    assert scores["score"] > task.prior + 5
    assert scores["color"] > 40  # chance is 12.5


def test_unusable_data_and_options_are_errors(few: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"questions.json: no such file; give the folder"):
        _open("uniter", tmp_path)
    with pytest.raises(DataError, match="30 word ids and 11 tokens per question; the model takes"):
        _open("uniter", few, (("vocab_size", 20),))
    spec = TaskSpec(name="easy_vqa", data="d", options=(("grid", 2),))
    with pytest.raises(TrainableError, match="no option 'grid'; use one of none"):
        open_task(TaskSource(few, few), spec, _backbone("uniter"))


def test_pixels_are_augmented_in_training_only(few: Path) -> None:
    spec, backbone = TaskSpec(name="easy_vqa", data=fingerprint(few)), _backbone("vilt")
    source = TaskSource(few, few, Augmentation("crop_flip"))
    task, plain = open_task(source, spec, backbone), _open("vilt", few)
    indices = np.arange(32)
    batch = task.train_batch(indices, Rng(0, "batch", 3, 0))["pixel_values"]
    parts = [
        task.train_batch(part, Rng(0, "batch", 3, number))["pixel_values"]
        for number, part in enumerate(np.array_split(indices, 3))
    ]
    assert torch.cat(parts).equal(batch)
    assert not plain.train_batch(indices, RNG)["pixel_values"].equal(batch)
    for one, other in zip(task.eval_batches(32, 32), plain.eval_batches(32, 32), strict=True):
        assert one["pixel_values"].equal(other["pixel_values"])
