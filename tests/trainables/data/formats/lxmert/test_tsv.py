"""LXMERT's files."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import numpy as np
import pytest

from tests.support.published_files import tsv_image
from trainables.data.formats.lxmert.tsv import (
    ARRAY_COLUMNS,
    TSV_COLUMNS,
    read_answers,
    read_tsv,
    write_answers,
    write_tsv,
)
from trainables.errors import DataError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "train2014_obj36.tsv"
    assert write_tsv(file, (tsv_image(n) for n in range(3))) == 3
    return file


def test_lines_are_read_as_written(file: Path) -> None:
    for number, line in enumerate(read_tsv(file)):
        image = tsv_image(number)
        assert (line.name, line.size()) == (image["img_id"], (480, 640))
        for column in ARRAY_COLUMNS:
            array = line.array(column)
            assert array.dtype == ARRAY_COLUMNS[column][0]
            np.testing.assert_array_equal(array, image[column])


def test_the_official_loader_can_read_the_file(file: Path) -> None:
    """Its `load_obj_tsv`: csv.DictReader, then np.frombuffer of each column."""
    csv.field_size_limit(2**24)
    with file.open() as stream:
        rows = list(csv.DictReader(stream, TSV_COLUMNS, delimiter="\t"))
    assert [row["num_boxes"] for row in rows] == ["36"] * 3
    boxes = np.frombuffer(base64.b64decode(rows[1]["boxes"]), np.float32).reshape(36, 4)
    np.testing.assert_array_equal(boxes, tsv_image(1)["boxes"])


def test_only_the_wanted_lines_are_read(file: Path) -> None:
    assert [line.name for line in read_tsv(file, {"image_2", "image_0"})] == ["image_0", "image_2"]


def test_the_same_images_give_the_same_bytes(file: Path, tmp_path: Path) -> None:
    write_tsv(tmp_path / "b.tsv", (tsv_image(n) for n in range(3)))
    assert (tmp_path / "b.tsv").read_bytes() == file.read_bytes()


def change_field(file: Path, column: str, value: bytes) -> None:
    lines = file.read_bytes().splitlines()
    fields = lines[1].split(b"\t")
    fields[TSV_COLUMNS.index(column)] = value
    file.write_bytes(b"\n".join([lines[0], b"\t".join(fields), *lines[2:]]) + b"\n")


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("features", b"****", "features cannot be decoded"),
        ("features", base64.b64encode(bytes(10)), "features cannot be decoded"),
        ("features", base64.b64encode(bytes(4 * 35)), "features cannot be decoded"),
        ("boxes", base64.b64encode(bytes(4 * 36 * 3)), "boxes have 3 numbers, not 4"),
        ("num_boxes", b"many", "num_boxes is not a positive number"),
        ("img_w", b"0", "img_w is not a positive number"),
    ],
)
def test_a_damaged_line_is_reported(file: Path, column: str, value: bytes, what: str) -> None:
    change_field(file, column, value)
    line = list(read_tsv(file))[1]
    with pytest.raises(DataError, match=rf"line 2 \(image_1\): {what}.*; download") as caught:
        line.size(), line.array("boxes"), line.array("features")
    assert "\n" not in str(caught.value)


def test_a_line_with_other_columns_is_reported(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes().rpartition(b"\t")[0])
    with pytest.raises(DataError, match=r"line 3 has 9 columns, not 10"):
        list(read_tsv(file))
    with pytest.raises(DataError, match=r"none.tsv: no such file"):
        list(read_tsv(tmp_path / "none.tsv"))


def test_answers_are_in_the_order_of_their_labels(tmp_path: Path) -> None:
    write_answers(tmp_path, ("", "yes", "a"))
    file = tmp_path / "trainval_ans2label.json"
    assert read_answers(file) == ("", "yes", "a")
    file.write_text('{"no": 1, "yes": 0}')
    assert read_answers(file) == ("yes", "no")
    file.write_text('{"no": 1, "yes": 2}')
    with pytest.raises(DataError, match="2 labels are not 0 to 1, each once"):
        read_answers(file)
