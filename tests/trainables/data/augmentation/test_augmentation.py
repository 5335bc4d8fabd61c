"""Augmented images are a function of the seed, the step and the image; evaluation sees none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support import published_files
from tests.support.outside_data import INVERT, installed
from tests.support.runs import RecordingSink
from trainables.data.augmentation import check_augmentation
from trainables.data.augmentation.apply import Augmentation
from trainables.data.augmentation.crop_flip import augment
from trainables.data.formats import task_files
from trainables.data.reference import LocalData
from trainables.errors import RecipeError, TrainableError
from trainables.models import MODELS
from trainables.run import RunInputs, run
from trainables.seeds import Rng
from trainables.spec import ModelSpec, Recipe, TaskSpec, TrainSpec
from trainables.tasks import nlvr2, vqa
from trainables.tasks.base import Task, TaskSource
from trainables.training.start import init_backbone
from trainables.user_modules import UserModule

VILT = ModelSpec(
    architecture="vilt",
    size="tiny",
    overrides=(("image_size", 64), ("patch_size", 32)),
    semantics=MODELS["vilt"].semantics,
)
CROP_FLIP = Augmentation("crop_flip")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VQA and NLVR2 in ViLT's tables; tests must not change them."""
    folder = tmp_path_factory.mktemp("pixels")
    for task in ("vqa", "nlvr2"):
        published_files.write_task(folder, task, "vilt")
    return folder


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with installed(INVERT):
        yield


def open_task(root: Path, name: str, augmentation: Augmentation = CROP_FLIP) -> Task:
    data = LocalData(root).fingerprint(task_files(name, "vilt", {}))
    source = TaskSource(root, root / "cache", augmentation)
    module = {"vqa": vqa, "nlvr2": nlvr2}[name]
    task: Task = module.open_task(
        source, TaskSpec(name=name, data=data), init_backbone(VILT, 0, 0.0)
    )
    return task


def pixels(task: Task, indices: list[int], *position: int) -> Tensor:
    return task.train_batch(np.array(indices), Rng(5, "batch", *position))["pixel_values"]


def test_crop_flip_shifts_and_mirrors_the_image() -> None:
    image = torch.arange(1, 1 + 3 * 8 * 16, dtype=torch.int64).reshape(3, 8, 16).to(torch.uint8)
    padded = torch.nn.functional.pad(image, (2, 2, 1, 1))
    possible = [padded[:, top : top + 8, left : left + 16] for top in range(3) for left in range(5)]
    possible += [each.flip(-1) for each in possible]
    results = [augment(image, Rng(seed)) for seed in range(400)]
    found = {next(i for i, one in enumerate(possible) if one.equal(each)) for each in results}
    assert found == set(range(30))


@pytest.mark.parametrize("name", ["vqa", "nlvr2"])
def test_draws_do_not_depend_on_pieces_or_workers(root: Path, name: str) -> None:
    task = open_task(root, name)
    together = pixels(task, [0, 3, 6, 9], 2, 0)
    # Two workers, or two micro-batches, take a half each.
    halves = [pixels(task, [0, 3], 2, 0), pixels(task, [6, 9], 2, 1)]
    assert torch.cat(halves).equal(together)
    assert pixels(open_task(root, name), [0, 3, 6, 9], 2, 3).equal(together)
    assert not pixels(task, [0, 3, 6, 9], 3, 0).equal(together)
    assert not pixels(open_task(root, name, Augmentation("none")), [0, 3, 6, 9], 2, 0).equal(
        together
    )


def test_evaluation_sees_images_as_they_are(root: Path) -> None:
    augmented = open_task(root, "vqa").eval_batches(4, 4)
    plain = open_task(root, "vqa", Augmentation("none")).eval_batches(4, 4)
    for one, other in zip(augmented, plain, strict=True):
        assert one["pixel_values"].equal(other["pixel_values"])


def test_an_augmentation_from_outside_is_applied(root: Path) -> None:
    plain = pixels(open_task(root, "vqa", Augmentation("none")), list(range(30)), 0, 0)
    inverted = pixels(open_task(root, "vqa", Augmentation("invert")), list(range(30)), 0, 0)
    changed = torch.tensor([not one.equal(two) for one, two in zip(plain, inverted, strict=True)])
    assert 0 < changed.sum() < 30
    inside = torch.isclose(inverted, -plain, atol=1e-6) | (inverted == plain)  # padding stays zero
    assert inside.all()


def test_an_augmentation_that_changes_the_shape_is_refused(root: Path) -> None:
    text = INVERT.text.replace("255 - pixels", "pixels[:, 1:]").replace("else pixels", "else 0")
    with (
        installed(UserModule("cut", text.replace("< 0.5", "< 1"))),
        pytest.raises(TrainableError, match=r"augmentation cut: returned .* keep type and shape"),
    ):
        pixels(open_task(root, "vqa", Augmentation("cut")), [0], 0, 0)


def test_an_augmentation_must_fit_the_model_and_the_task() -> None:
    check_augmentation("none", "regions", task="mine", applies=False)
    check_augmentation("crop_flip", "pixels", task="vqa", applies=True)
    with pytest.raises(RecipeError, match="'crop_flip' changes pixels, the model reads regions"):
        check_augmentation("crop_flip", "regions", task="vqa", applies=True)
    with pytest.raises(RecipeError, match="task mine applies no augmentation"):
        check_augmentation("crop_flip", "pixels", task="mine", applies=False)


def test_a_resumed_run_equals_an_uninterrupted_one(root: Path) -> None:
    data = LocalData(root).fingerprint(task_files("vqa", "vilt", {}))
    spec = TrainSpec(
        model=VILT,
        task=TaskSpec(name="vqa", data=data),
        recipe=Recipe(steps=4, batch_size=4, accumulate=2, lr=1e-3, augmentation="crop_flip"),
    )
    inputs = RunInputs(data=root, cache=root / "cache")
    expected = run(spec, inputs, RecordingSink())
    interrupted = RecordingSink(interrupt_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(spec, inputs, interrupted)
    resumed = run(spec, replace(inputs, checkpoint=interrupted.checkpoints[1]), RecordingSink())
    assert resumed == expected
    plain = replace(spec, recipe=replace(spec.recipe, augmentation="none"))
    assert run(plain, inputs, RecordingSink()).checks != expected.checks
