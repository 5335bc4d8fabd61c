"""Generated scenes, read back with the readers of the published formats."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import published_files
from tests.support.published_files import LAYOUTS
from trainables.data import scenes
from trainables.data.check import check_folder
from trainables.data.fingerprint import fingerprint
from trainables.data.open import open_data
from trainables.data.reference import LocalData
from trainables.data.scenes import render
from trainables.data.scenes.dataset import SceneDataset, generate
from trainables.data.scenes.vocabulary import CLS, SEP, TAGS, VOCABULARY, encode_text
from trainables.data.scenes.world import COLORS, IMAGE_SIDE, SHAPES, Scene, Thing
from trainables.data.schema.examples import Data, Pixels, Regions, Split
from trainables.errors import DataError
from trainables.seeds import Rng
from trainables.spec import Options

IMAGES, DIFFICULTY, SEED = 60, 0.5, 3
TASKS_AND_FORMATS = list(LAYOUTS)
PLAIN = [
    (task, file_format) for task, file_format in TASKS_AND_FORMATS if task not in ("vcr", "refcoco")
]
OTHER_FORMATS = [
    (task, file_format) for task, file_format in TASKS_AND_FORMATS if file_format != "uniter"
]
WORDS = (*VOCABULARY, *TAGS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert scenes.write_scenes(folder, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def dataset() -> SceneDataset:
    return generate(IMAGES, DIFFICULTY, SEED)


def open_scenes(root: Path, task: str, file_format: str, options: Options = ()) -> Data:
    spec = published_files.task_spec(root, task, file_format, options)
    size, patch = (IMAGE_SIDE, 16) if file_format == "vilt" else (0, 0)
    cache = root.with_name("cache")
    return open_data(LocalData(root), cache, spec, file_format, image_size=size, patch_size=patch)


def splits(data: Data) -> list[tuple[str, Split]]:
    return [("train", data.train), ("held_out", data.held_out)]


def row(values: Any, number: int) -> list[Any]:
    values_list: list[Any] = values.rows(np.array([number]))[0].tolist()
    return values_list


def text(split: Split, number: int) -> str:
    """Return a text's tokens separated by spaces, without [CLS] and the last [SEP]."""
    words = [WORDS[token] for token in row(split.texts, number)]
    assert (words[0], words[-1]) == (CLS, SEP)
    return " ".join(words[1:-1])


def spaced(text: str) -> str:
    return " ".join(WORDS[token] for token in encode_text(text))


def targets(data: Data, split: Split, number: int) -> dict[str, Any]:
    labels, scores = row(split.labels, number), row(split.scores, number)
    return {data.answers[k]: pytest.approx(v) for k, v in zip(labels, scores, strict=True)}


def only_thing(scene: Scene, shape: str) -> Thing | None:
    """Return the thing of a shape if there is exactly one."""
    things = [thing for thing in scene.things if SHAPES[thing.shape] == shape]
    return things[0] if len(things) == 1 else None


def corners(thing: Thing) -> list[float]:
    return [side / IMAGE_SIDE for side in thing.corners]


@pytest.mark.parametrize(("task", "file_format"), PLAIN, ids=lambda part: part)
def test_the_examples_read_are_those_generated(
    root: Path, dataset: SceneDataset, task: str, file_format: str
) -> None:
    """Compare the text, the targets and the images of every example."""
    data = open_scenes(root, task, file_format)
    for name, split in splits(data):
        if (task, name) == ("retrieval", "held_out"):
            name = "val"
        items = list(dataset.examples[task, name])
        if task == "pretraining" and name == "held_out":
            assert {item.scenes[0] for item in items} == set(range(IMAGES, IMAGES + IMAGES // 5))
        assert len(split) == len(items) > 0
        for number, item in enumerate(items):
            assert text(split, number) == spaced(item.text)
            assert targets(data, split, number) == dict(item.scores)
            for image, scene in zip(split.images[number], item.scenes, strict=True):
                check_image(dataset, split, int(image), scene)


def check_image(dataset: SceneDataset, split: Split, image: int, scene: int) -> None:
    """Assert that the image shows this scene."""
    index = np.array([image])
    if isinstance(split.image_data, Pixels):
        assert np.array_equal(
            split.image_data.pixels.rows(index)[0], picture(dataset.scenes[scene], scene)
        )
    else:
        boxes, detections = split.image_data.boxes.rows(index)[0], dataset.detected[scene]
        assert np.allclose(boxes[:, :4], detections.boxes / IMAGE_SIDE, atol=1e-3)
        assert np.array_equal(split.image_data.features.rows(index)[0], detections.features)


@cache
def picture(scene: Scene, number: int) -> NDArray[np.uint8]:
    """(SIDE * SIDE, 3)"""
    return render.render_scene(scene, DIFFICULTY, Rng(SEED, "picture", number)).reshape(-1, 3)


@pytest.mark.parametrize(("task", "file_format"), OTHER_FORMATS, ids=lambda part: part)
def test_all_formats_have_the_same_examples(root: Path, task: str, file_format: str) -> None:
    """Only the order of the labels may differ."""
    data, uniter = open_scenes(root, task, file_format), open_scenes(root, task, "uniter")
    assert data.vocabulary == uniter.vocabulary
    assert sorted(data.answers) == sorted(uniter.answers)
    for (_, split), (_, other) in zip(splits(data), splits(uniter), strict=True):
        for number in range(len(other)):
            assert text(split, number) == text(other, number)
            assert targets(data, split, number) == targets(uniter, other, number)


def test_answers_to_questions_match_the_scene(root: Path, dataset: SceneDataset) -> None:
    """Most of the ten simulated people answer correctly."""
    data, is_right = open_scenes(root, "vqa", "uniter"), []
    for number, item in enumerate(dataset.examples["vqa", "train"]):
        words = text(data.train, number).split()
        if words[:2] == ["what", "color"]:
            thing = only_thing(dataset.scenes[item.scenes[0]], words[-2])
            assert thing is not None
            scores = dict(item.scores)
            is_right.append(max(scores, key=scores.__getitem__) == COLORS[thing.color])
    assert len(is_right) > 10
    assert np.mean(is_right) > 0.9


def test_claims_match_the_pair_of_scenes(root: Path, dataset: SceneDataset) -> None:
    data, checked_count = open_scenes(root, "nlvr2", "lxmert"), 0
    for number, item in enumerate(dataset.examples["nlvr2", "train"]):
        words = text(data.train, number).split()
        side, shape = words[1], words[-2]
        if words[2:4] == ["image", "shows"] and len(words) == 7 and shape in SHAPES:
            scene = dataset.scenes[item.scenes[("left", "right").index(side)]]
            holds = any(SHAPES[thing.shape] == shape for thing in scene.things)
            assert row(data.train.labels, number) == [int(holds)]
            checked_count += 1
    assert checked_count > 3


def test_an_absent_shape_is_neutral_if_the_scene_has_a_box(
    root: Path, dataset: SceneDataset
) -> None:
    data, labels = open_scenes(root, "snli_ve", "vilt"), set()
    for number, item in enumerate(dataset.examples["snli_ve", "train"]):
        words = text(data.train, number).split()
        scene = dataset.scenes[item.scenes[0]]
        if words[:2] == ["there", "is"] and len(words) == 5 and words[3] in SHAPES:
            exists = any(SHAPES[thing.shape] == words[3] for thing in scene.things)
            unseen = "neutral" if scene.has_box else "contradiction"
            label = "entailment" if exists else unseen
            assert targets(data, data.train, number) == {label: 1.0}
            labels.add(label)
    assert len(labels) == 3


def test_vcr_items_are_about_the_tagged_things(root: Path, dataset: SceneDataset) -> None:
    data, checked_count = open_scenes(root, "vcr", "uniter"), 0
    for name, split in splits(data):
        assert len(split) == len(dataset.vcr_items[name])
        for number, item in enumerate(dataset.vcr_items[name]):
            texts = [text(split, 8 * number + i) for i in range(8)]
            question, answers = spaced(item.question), [spaced(each) for each in item.answers]
            right = f"{question} {SEP} {answers[item.answer]}"
            assert texts[:4] == [f"{question} {SEP} {answer}" for answer in answers]
            assert texts[4:] == [f"{right} {SEP} {spaced(reason)}" for reason in item.reasons]
            assert row(split.labels, number) == [item.answer, item.reason]
            scene, image = dataset.scenes[item.scene], int(split.images[number, 0])
            assert isinstance(split.image_data, Regions)
            boxes = np.array(row(split.image_data.boxes, image))[:, :4]
            true = np.array([corners(thing) for thing in scene.things])
            assert boxes[: len(true)] == pytest.approx(true, abs=1e-3)
            assert len(boxes) == len(true) + len(dataset.detected[item.scene].boxes)
            if question.startswith("what color"):
                thing = only_thing(scene, question.split()[-2].strip("[]"))
                assert thing is not None
                assert answers[item.answer] == f"it is {COLORS[thing.color]} ."
                checked_count += 1
    assert checked_count > 10


def test_expressions_have_the_box_of_their_thing(root: Path, dataset: SceneDataset) -> None:
    data = open_scenes(root, "refcoco", "uniter")
    for name, split in splits(data):
        assert len(split) == len(dataset.expressions[name])
        for number, expression in enumerate(dataset.expressions[name]):
            assert text(split, number) == spaced(expression.text)
            x1, y1, x2, y2 = dataset.scenes[expression.scene].things[expression.thing].corners
            box = [x1, y1, x2 - x1, y2 - y1, IMAGE_SIDE, IMAGE_SIDE]
            assert row(split.scores, number) == pytest.approx(box, rel=1e-5)
            assert isinstance(split.image_data, Regions)
            image, labels = int(split.images[number, 0]), row(split.labels, number)
            if name == "held_out":
                assert labels == []
                check_image(dataset, split, image, expression.scene)
            else:
                region = row(split.image_data.boxes, image)[labels[0]]
                assert region[:4] == pytest.approx(
                    [x / IMAGE_SIDE for x in (x1, y1, x2, y2)], abs=1e-3
                )


def test_retrieval_has_two_held_out_splits(root: Path, dataset: SceneDataset) -> None:
    ranges = [dataset.scene_range(split) for split in ("train", "val", "test")]
    assert [len(set(each)) for each in ranges] == [IMAGES, 2, 2]
    assert len(set().union(*ranges)) == IMAGES + 4
    for file_format in ("uniter", "vilt"):
        held_out = open_scenes(root, "retrieval", file_format, (("split", "test"),)).held_out
        texts = [text(held_out, number) for number in range(len(held_out))]
        assert texts == [spaced(item.text) for item in dataset.examples["retrieval", "test"]]


def test_pretraining_has_the_classes_of_the_detector(root: Path, dataset: SceneDataset) -> None:
    train = open_scenes(root, "pretraining", "uniter").train
    assert isinstance(train.image_data, Regions)
    assert train.image_data.classes is not None
    first = np.array(row(train.image_data.classes, int(train.images[0, 0])))
    assert first == pytest.approx(dataset.detected[0].classes, abs=1e-3)


def test_the_folder_passes_the_check(root: Path) -> None:
    checked = check_folder(root)
    assert checked.findings == ()
    assert {(count.task, count.format) for count in checked.counts} == set(TASKS_AND_FORMATS)
    # No training text is long enough to be truncated or dropped.
    for count in checked.counts:
        assert count.longest_text <= LAYOUTS[count.task, count.format].max_tokens


def test_the_same_parameters_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    again.mkdir()  # an empty folder is accepted
    scenes.write_scenes(again, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    scenes.write_scenes(other, images=IMAGES, difficulty=DIFFICULTY, seed=SEED + 1)
    assert fingerprint(again) == fingerprint(root)
    for part in ("uniter", "lxmert", "vilt"):
        assert fingerprint(other / part) != fingerprint(root / part)
    assert sorted(tmp_path.iterdir()) == [again, other]


def test_existing_files_are_not_changed(root: Path, tmp_path: Path) -> None:
    before = fingerprint(root)
    assert not scenes.write_scenes(root, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    with pytest.raises(DataError, match=r"holds other scenes \(.*images 60.*\); remove it"):
        scenes.write_scenes(root, images=IMAGES + 10, difficulty=DIFFICULTY, seed=SEED)
    assert fingerprint(root) == before
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(DataError, match="holds other files than scenes; remove it"):
        scenes.write_scenes(tmp_path, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interruption_leaves_no_files(tmp_path: Path) -> None:
    def stop(file: str, done: int, total: int) -> None:
        if 2 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scenes.write_scenes(
            tmp_path / "scenes", images=IMAGES, difficulty=DIFFICULTY, seed=SEED, progress=stop
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("images", "difficulty"), [(49, 0.5), (60, 1.5), (60, -0.1)])
def test_invalid_parameters_are_refused(tmp_path: Path, images: int, difficulty: float) -> None:
    with pytest.raises(DataError, match="give images from 50, difficulty from 0 to 1"):
        scenes.write_scenes(tmp_path / "scenes", images=images, difficulty=difficulty, seed=0)
