"""A generated world, as the readers of the published formats see it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import published_files as published
from trainables.data import scenes
from trainables.data.check import check
from trainables.data.fingerprint import fingerprint
from trainables.data.open import open_data
from trainables.data.scenes import render
from trainables.data.scenes.dataset import Book, compose
from trainables.data.scenes.vocabulary import CLS, SEP, TAGS, VOCABULARY, encode
from trainables.data.scenes.world import COLORS, SHAPES, SIDE, Scene, Thing
from trainables.data.schema.examples import Data, Pixels, Regions, Split
from trainables.data.schema.layouts import LAYOUTS
from trainables.errors import DataError
from trainables.models import Format
from trainables.seeds import Chance
from trainables.spec import Options

IMAGES, DIFFICULTY, SEED = 60, 0.5, 3
CELLS = list(LAYOUTS)
PLAIN = [(task, form) for task, form in CELLS if task not in ("vcr", "refcoco")]
SEVERAL = [(task, form) for task, form in CELLS if form != "uniter"]
WORDS = (*VOCABULARY, *TAGS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "scenes"
    assert scenes.write(folder, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def book() -> Book:
    return compose(IMAGES, DIFFICULTY, SEED)


def opened(root: Path, task: str, form: Format, options: Options = ()) -> Data:
    spec = published.spec(root, task, form, options)
    size, patch = (SIDE, 16) if form == "vilt" else (0, 0)
    cache = root.with_name("cache")
    return open_data(root, cache, spec, form, image_size=size, patch_size=patch)


def splits(data: Data) -> list[tuple[str, Split]]:
    return [("train", data.train), ("held_out", data.held_out)]


def row(values: Any, number: int) -> list[Any]:
    found: list[Any] = values.rows(np.array([number]))[0].tolist()
    return found


def text(split: Split, number: int) -> str:
    """Without [CLS] and the last [SEP]; marks stand apart as words do."""
    words = [WORDS[token] for token in row(split.texts, number)]
    assert (words[0], words[-1]) == (CLS, SEP)
    return " ".join(words[1:-1])


def spaced(said: str) -> str:
    return " ".join(WORDS[token] for token in encode(said))


def targets(data: Data, split: Split, number: int) -> dict[str, Any]:
    labels, scores = row(split.labels, number), row(split.scores, number)
    return {data.answers[k]: pytest.approx(v) for k, v in zip(labels, scores, strict=True)}


def one(scene: Scene, shape: str) -> Thing | None:
    """The thing of a shape, if there is just one."""
    found = [thing for thing in scene.things if SHAPES[thing.shape] == shape]
    return found[0] if len(found) == 1 else None


def corners(thing: Thing) -> list[float]:
    return [side / SIDE for side in thing.corners]


@pytest.mark.parametrize(("task", "form"), PLAIN, ids=lambda part: part)
def test_a_cell_says_what_the_world_says(root: Path, book: Book, task: str, form: Format) -> None:
    """Text, targets and the picture of every example; the scenes of training first."""
    data = opened(root, task, form)
    for name, split in splits(data):
        if (task, name) == ("retrieval", "held_out"):
            name = "val"
        items = list(book.items[task, name])
        if task == "pretraining" and name == "held_out":
            assert {item.scenes[0] for item in items} == set(range(IMAGES, IMAGES + IMAGES // 5))
        assert len(split) == len(items) > 0
        for number, item in enumerate(items):
            assert text(split, number) == spaced(item.text)
            assert targets(data, split, number) == dict(item.scores)
            for image, scene in zip(split.images[number], item.scenes, strict=True):
                shown(book, split, int(image), scene)


def shown(book: Book, split: Split, image: int, scene: int) -> None:
    """The image is this scene's."""
    wanted = np.array([image])
    if isinstance(split.seen, Pixels):
        assert np.array_equal(split.seen.pixels.rows(wanted)[0], picture(book.scenes[scene], scene))
    else:
        boxes, seen = split.seen.boxes.rows(wanted)[0], book.detected[scene]
        assert np.allclose(boxes[:, :4], seen.boxes / SIDE, atol=1e-3)
        assert np.array_equal(split.seen.features.rows(wanted)[0], seen.features)


@cache
def picture(scene: Scene, number: int) -> NDArray[np.uint8]:
    """(SIDE * SIDE, 3)"""
    return render.picture(scene, DIFFICULTY, Chance(SEED, "picture", number)).reshape(-1, 3)


@pytest.mark.parametrize(("task", "form"), SEVERAL, ids=lambda part: part)
def test_formats_differ_in_form_alone(root: Path, task: str, form: Format) -> None:
    """The order of the labels aside, which is the data's own."""
    data, uniter = opened(root, task, form), opened(root, task, "uniter")
    assert data.vocabulary == uniter.vocabulary
    assert sorted(data.answers) == sorted(uniter.answers)
    for (_, split), (_, other) in zip(splits(data), splits(uniter), strict=True):
        for number in range(len(other)):
            assert text(split, number) == text(other, number)
            assert targets(data, split, number) == targets(uniter, other, number)


def test_questions_are_answered_by_looking(root: Path, book: Book) -> None:
    """Ten people mostly see what is there."""
    data, right = opened(root, "vqa", "uniter"), []
    for number, item in enumerate(book.items["vqa", "train"]):
        words = text(data.train, number).split()
        if words[:2] == ["what", "color"]:
            thing = one(book.scenes[item.scenes[0]], words[-2])
            assert thing is not None
            given = dict(item.scores)
            right.append(max(given, key=given.__getitem__) == COLORS[thing.color])
    assert len(right) > 10
    assert np.mean(right) > 0.9


def test_claims_hold_of_the_pair(root: Path, book: Book) -> None:
    data, looked = opened(root, "nlvr2", "lxmert"), 0
    for number, item in enumerate(book.items["nlvr2", "train"]):
        words = text(data.train, number).split()
        side, shape = words[1], words[-2]
        if words[2:4] == ["image", "shows"] and len(words) == 7 and shape in SHAPES:
            scene = book.scenes[item.scenes[("left", "right").index(side)]]
            holds = any(SHAPES[thing.shape] == shape for thing in scene.things)
            assert row(data.train.labels, number) == [int(holds)]
            looked += 1
    assert looked > 3


def test_a_box_may_hide_what_is_not_seen(root: Path, book: Book) -> None:
    data, looked = opened(root, "snli_ve", "vilt"), set()
    for number, item in enumerate(book.items["snli_ve", "train"]):
        words = text(data.train, number).split()
        scene = book.scenes[item.scenes[0]]
        if words[:2] == ["there", "is"] and len(words) == 5 and words[3] in SHAPES:
            there = any(SHAPES[thing.shape] == words[3] for thing in scene.things)
            unseen = "neutral" if scene.has_box else "contradiction"
            label = "entailment" if there else unseen
            assert targets(data, data.train, number) == {label: 1.0}
            looked.add(label)
    assert len(looked) == 3


def test_riddles_are_about_the_tagged_things(root: Path, book: Book) -> None:
    data, looked = opened(root, "vcr", "uniter"), 0
    for name, split in splits(data):
        assert len(split) == len(book.riddles[name])
        for number, riddle in enumerate(book.riddles[name]):
            texts = [text(split, 8 * number + place) for place in range(8)]
            asked, answers = spaced(riddle.question), [spaced(each) for each in riddle.answers]
            right = f"{asked} {SEP} {answers[riddle.answer]}"
            assert texts[:4] == [f"{asked} {SEP} {answer}" for answer in answers]
            assert texts[4:] == [f"{right} {SEP} {spaced(reason)}" for reason in riddle.reasons]
            assert row(split.labels, number) == [riddle.answer, riddle.reason]
            scene, image = book.scenes[riddle.scene], int(split.images[number, 0])
            assert isinstance(split.seen, Regions)
            boxes = np.array(row(split.seen.boxes, image))[:, :4]
            true = np.array([corners(thing) for thing in scene.things])
            assert boxes[: len(true)] == pytest.approx(true, abs=1e-3)
            assert len(boxes) == len(true) + len(book.detected[riddle.scene].boxes)
            if asked.startswith("what color"):
                thing = one(scene, asked.split()[-2].strip("[]"))
                assert thing is not None
                assert answers[riddle.answer] == f"it is {COLORS[thing.color]} ."
                looked += 1
    assert looked > 10


def test_expressions_point_at_a_thing(root: Path, book: Book) -> None:
    data = opened(root, "refcoco", "uniter")
    for name, split in splits(data):
        assert len(split) == len(book.expressions[name])
        for number, said in enumerate(book.expressions[name]):
            assert text(split, number) == spaced(said.text)
            x1, y1, x2, y2 = book.scenes[said.scene].things[said.thing].corners
            box = [x1, y1, x2 - x1, y2 - y1, SIDE, SIDE]
            assert row(split.scores, number) == pytest.approx(box, rel=1e-5)
            assert isinstance(split.seen, Regions)
            image, labels = int(split.images[number, 0]), row(split.labels, number)
            if name == "held_out":
                assert labels == []
                shown(book, split, image, said.scene)
            else:
                found = row(split.seen.boxes, image)[labels[0]]
                assert found[:4] == pytest.approx([x / SIDE for x in (x1, y1, x2, y2)], abs=1e-3)


def test_retrieval_has_two_held_out_splits(root: Path, book: Book) -> None:
    shown = [book.numbers(split) for split in ("train", "val", "test")]
    assert [len(set(each)) for each in shown] == [IMAGES, 2, 2]
    assert len(set().union(*shown)) == IMAGES + 4
    for form in ("uniter", "vilt"):
        held_out = opened(root, "retrieval", form, (("split", "test"),)).held_out
        said = [text(held_out, number) for number in range(len(held_out))]
        assert said == [spaced(item.text) for item in book.items["retrieval", "test"]]


def test_pretraining_knows_the_detectors_classes(root: Path, book: Book) -> None:
    train = opened(root, "pretraining", "uniter").train
    assert isinstance(train.seen, Regions)
    assert train.seen.classes is not None
    first = np.array(row(train.seen.classes, int(train.images[0, 0])))
    assert first == pytest.approx(book.detected[0].classes, abs=1e-3)


def test_nothing_is_wrong_with_the_folder(root: Path) -> None:
    checked = check(root)
    assert checked.findings == ()
    assert {(count.task, count.format) for count in checked.counts} == set(CELLS)
    # No text is cut or left out, by what the formats keep of a training text.
    for count in checked.counts:
        assert count.longest_text <= LAYOUTS[count.task, count.format].longest


def test_the_same_parameters_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "again", tmp_path / "other"
    again.mkdir()  # an empty folder is taken
    scenes.write(again, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    scenes.write(other, images=IMAGES, difficulty=DIFFICULTY, seed=SEED + 1)
    assert fingerprint(again) == fingerprint(root)
    for part in ("uniter", "lxmert", "vilt"):
        assert fingerprint(other / part) != fingerprint(root / part)
    assert sorted(tmp_path.iterdir()) == [again, other]


def test_what_is_there_is_kept(root: Path, tmp_path: Path) -> None:
    before = fingerprint(root)
    assert not scenes.write(root, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    with pytest.raises(DataError, match=r"holds other scenes \(.*images 60.*\); remove it"):
        scenes.write(root, images=IMAGES + 10, difficulty=DIFFICULTY, seed=SEED)
    assert fingerprint(root) == before
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(DataError, match="holds something else than scenes; remove it"):
        scenes.write(tmp_path, images=IMAGES, difficulty=DIFFICULTY, seed=SEED)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def stop(file: str, done: int, total: int) -> None:
        if 2 * done > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scenes.write(
            tmp_path / "scenes", images=IMAGES, difficulty=DIFFICULTY, seed=SEED, progress=stop
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("images", "difficulty"), [(49, 0.5), (60, 1.5), (60, -0.1)])
def test_worlds_that_cannot_be(tmp_path: Path, images: int, difficulty: float) -> None:
    with pytest.raises(DataError, match="give images from 50, difficulty from 0 to 1"):
        scenes.write(tmp_path / "scenes", images=images, difficulty=difficulty, seed=0)
