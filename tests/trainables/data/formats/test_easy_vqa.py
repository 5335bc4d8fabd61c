from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.formats import easy_vqa
from trainables.errors import DataError


def _image(box: tuple[int, int, int, int], background: int = 240) -> np.ndarray:
    image = np.full((64, 64, 3), background, dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = (255, 0, 0)
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training images and one test image, in the layout of the package."""
    entries = {
        "train": [["what color is the shape?", "red", 7], ["is there a circle?", "no", 3]],
        "test": [["is there a square?", "no", 0]],
    }
    for split, questions in entries.items():
        images = tmp_path / split / "images"
        images.mkdir(parents=True)
        (tmp_path / split / "questions.json").write_text(json.dumps(questions))
        for number in {entry[2] for entry in questions}:
            image = _image((number, 0, number + 20, 10))
            Image.fromarray(image).save(images / f"{number}.png")
    return tmp_path


def test_a_split_is_read(folder: Path) -> None:
    split = easy_vqa.read_questions(folder, "train")
    assert split.questions == ("what color is the shape?", "is there a circle?")
    assert [easy_vqa.ALL_ANSWERS[a] for a in split.answers] == ["red", "no"]
    assert split.image.tolist() == [1, 0]  # images in the order of their numbers
    assert np.array_equal(split.images[1], _image((7, 0, 27, 10)))


@pytest.mark.parametrize("box", [(20, 30, 40, 35), (0, 0, 34, 34), (60, 1, 64, 3), (0, 60, 5, 64)])
def test_the_object_is_found(box: tuple[int, int, int, int]) -> None:
    for background in (230, 255):
        assert easy_vqa.object_boxes(_image(box, background)[None]).tolist() == [list(box)]


def test_in_a_blank_image_the_object_is_the_full_image() -> None:
    blank = np.full((1, 64, 64, 3), 240, dtype=np.uint8)
    assert easy_vqa.object_boxes(blank).tolist() == [[0, 0, 64, 64]]


def test_regions_are_the_object_and_a_grid_over_the_image() -> None:
    boxes = easy_vqa.region_boxes(_image((4, 8, 24, 18))[None])
    assert boxes.shape == (1, 1 + easy_vqa.GRID_SIZE**2, 4)
    assert boxes[0, 0].tolist() == [4, 8, 24, 18]
    covered = np.zeros((64, 64), dtype=int)
    for x1, y1, x2, y2 in boxes[0, 1:]:
        covered[y1:y2, x1:x2] += 1
    assert (covered == 1).all()


def test_boxes_are_normalised() -> None:
    # x1, y1, x2, y2, w, h, area, on an image of side 64
    normalised = easy_vqa.normalised_boxes(np.array([[[16, 0, 48, 64]]]), 64)
    assert normalised.tolist() == [[[0.25, 0.0, 0.75, 1.0, 0.5, 1.0, 0.5]]]


def test_crops_have_the_pixels_of_their_box() -> None:
    images = _image((4, 8, 24, 18))[None]
    crops = easy_vqa.crops(images, easy_vqa.region_boxes(images), 192)
    assert crops.shape == (1, 1 + easy_vqa.GRID_SIZE**2, 64, 3)
    assert (crops[0, 0].reshape(8, 8, 3)[1:-1, 1:-1] == (255, 0, 0)).all()
    assert easy_vqa.crops(images, easy_vqa.region_boxes(images), 2048).shape[2] == 26 * 26


def test_questions_are_encoded() -> None:
    vocab = easy_vqa.build_vocabulary(["Is there a circle?", "is there a a"])
    assert vocab == {"a": 4, "circle": 5, "is": 6, "there": 7}
    ids, mask = easy_vqa.encode_questions(["there is", "is a Square?"], vocab)
    assert ids.tolist() == [[2, 7, 6, 3, 0], [2, 6, 4, 1, 3]]
    assert mask.tolist() == [[True] * 4 + [False], [True] * 5]


def _error_of(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        easy_vqa.read_questions(folder, "train")
    assert "\n" not in str(caught.value)
    assert "pip install easy-vqa" in str(caught.value) or "answers: yes, no" in str(caught.value)
    return str(caught.value)


def test_errors_in_the_folder_are_reported_in_one_line(folder: Path) -> None:
    assert str(folder / "no" / "train" / "questions.json") in _error_of(folder / "no")

    image = folder / "train" / "images" / "7.png"
    Image.fromarray(_image((0, 0, 9, 9))[:32]).save(image)
    assert "the images differ in size" in _error_of(folder)
    image.write_bytes(b"not an image")
    assert f"{image}: cannot be decoded" in _error_of(folder)
    image.unlink()
    assert f"{image}: no such file" in _error_of(folder)

    questions = folder / "train" / "questions.json"
    questions.write_text(json.dumps([["what color?", "pink", 3]]))
    assert "unknown answer 'pink'" in _error_of(folder)
    for text in ("[[1, 2]]", "{", '[["q", "yes", "x"]]', "3"):
        questions.write_text(text)
        assert "not a list of [question, answer, image number]" in _error_of(folder)
    questions.write_text("[]")
    assert "has no questions" in _error_of(folder)
