"""Each field of a record is checked against its stated type, range and length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trainables.data.schema.fields import IMAGE_FIELDS, SOFT_TARGETS, ExampleSchema, Field
from trainables.data.schema.records import ExampleRecord
from trainables.data.schema.validate import example_problem, image_problem

SIZES = {"words": 300, "answers": 4}
TWO_TEXTS = ExampleSchema(texts=2, labels=Field(dtype="int32", shape=(2,), low=0, high=3))


def record(**changes: Any) -> ExampleRecord:
    fields: dict[str, Any] = {
        "key": "7",
        "file": "file",
        "texts": [[101, 299, 102]],
        "images": (("file", 1),),
        "labels": [0, 3],
        "scores": [1, 0.3],
    }
    return ExampleRecord(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"labels": [], "scores": []}, ""),
        ({"labels": np.array([0, 3]), "scores": np.array([1, 0.3], np.float32)}, ""),
        ({"token_types": [[0, 2, 3]]}, ""),
        ({"texts": []}, "texts: 0 of them, not 1"),
        ({"texts": [[]]}, "texts: 0 tokens, not 1 or more"),
        ({"texts": ["what"]}, "texts: 'what' is not a list"),
        ({"texts": [[101, 300, 102]]}, "texts: 300 is not an integer from 0 to 299"),
        ({"texts": [[101, 5.0, 102]]}, "texts: 5.0 is not an integer from 0 to 299"),
        ({"texts": [[101, True, 102]]}, "texts: True is not an integer from 0 to 299"),
        ({"token_types": [[0, 2]]}, "token_types: 2 values, not 3"),
        ({"token_types": [[0, 2, 256]]}, "token_types: 256 is not an integer from 0 to 255"),
        ({"images": ()}, "images: 0 of them, not 1"),
        ({"labels": [0, 4]}, "labels: 4 is not an integer from 0 to 3"),
        ({"labels": [0]}, "scores: 2 values, not 1"),
        ({"scores": [1, 1.01]}, "scores: 1.01 is not a number from 0 to 1"),
        ({"scores": [float("nan"), 1.0]}, "scores: nan is not a number from 0 to 1"),
        ({"scores": [1.0, "high"]}, "scores: 'high' is not a number from 0 to 1"),
    ],
)
def test_examples(changes: dict[str, Any], problem: str) -> None:
    assert example_problem(SOFT_TARGETS, record(**changes), SIZES) == problem


def test_a_fixed_number_of_texts_and_labels() -> None:
    two = record(texts=[[1], [2, 3]], labels=[0, 3], scores=[])
    assert example_problem(TWO_TEXTS, two, SIZES) == ""
    three = record(texts=[[1], [2, 3]], labels=[0, 1, 2], scores=[])
    assert example_problem(TWO_TEXTS, three, SIZES) == "labels: 3 values, not 2"


def regions() -> dict[str, np.ndarray]:
    boxes = np.tile(np.array([0.1, 0.2, 0.6, 1.0, 0.5, 0.8, 0.4], np.float32), (3, 1))
    return {"features": np.ones((3, 8), np.float16), "boxes": boxes}


def set_value(name: str, index: Any, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(image: dict[str, np.ndarray]) -> None:
        image[name][index] = value

    return change


def set_type(name: str, dtype: str) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda image: image.update({name: image[name].astype(dtype)})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda image: None, ""),
        (set_value("boxes", (1, 3), 1.001), ""),
        (set_value("features", (1, 3), 60_000), ""),
        (set_value("features", (1, 3), np.inf), "features: values that are not finite"),
        (set_value("boxes", (1, 6), np.nan), "boxes: values that are not finite"),
        (set_value("boxes", (1, 3), 1.01), "boxes: 1.01 is not a number from 0 to 1"),
        (set_value("boxes", (1, 0), -0.2), "boxes: -0.2 is not a number from 0 to 1"),
        (set_value("boxes", (1, 3), 0.19), "boxes: y2 is below y1 in a row"),
        (set_type("boxes", "float64"), "boxes: numbers of type float64, not float32"),
        (lambda image: image.update(boxes=image["boxes"][:2]), "boxes: 2 x 7 values, not 3 x 7"),
        (lambda image: image.update(features=np.ones(3, np.float16)), "features: 3 values, not re"),
        (lambda image: image.pop("boxes"), "fields: features, not features, boxes"),
    ],
)
def test_regions(change: Callable[[dict[str, np.ndarray]], None], problem: str) -> None:
    image = regions()
    change(image)
    fields = {name: IMAGE_FIELDS["regions"][name] for name in ("features", "boxes")}
    found = image_problem(fields, image)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (0.0, ""),
        (-0.0, ""),
        (1.0, ""),
        (1.001, "classes: 1.001 is not a number from 0 to 1"),
        (-0.5, "classes: -0.5 is not a number from 0 to 1"),
        (np.nan, "classes: values that are not finite"),
    ],
)
def test_float16_probabilities(value: float, problem: str) -> None:
    fields = {"classes": IMAGE_FIELDS["regions"]["classes"]}
    classes = np.full((2, 3), 0.25, np.float16)
    classes[1, 2] = value
    assert image_problem(fields, {"classes": classes}) == problem


def test_pixels() -> None:
    fields = IMAGE_FIELDS["pixels"]
    image = {"pixels": np.zeros((6, 3), np.uint8), "size": np.array([2, 3], np.int32)}
    assert image_problem(fields, image) == ""
    image["size"] = np.array([2, 2], np.int32)
    assert image_problem(fields, image) == "pixels: 6 of them, not 2 rows of 2"
    image["size"] = np.array([0, 3], np.int32)
    assert image_problem(fields, image).startswith("size: 0 is not an integer from 1")
