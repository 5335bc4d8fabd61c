"""ViLT's tables in the shapes of the authors' scripts are read as their loaders read them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.support import published_files
from tests.support.official_files import odd_images, write_arrow
from tests.support.published_files import ROWS, read_task_data
from trainables.data.formats import resolve_layout
from trainables.data.formats.vilt.arrow import SCHEMAS, ArrowTable, write_table
from trainables.data.schema.examples import Pixels
from trainables.errors import DataError


@pytest.mark.parametrize("task", ROWS)
def test_tables_written_through_pandas_are_read(tmp_path: Path, task: str) -> None:
    """They give the same data as our own tables."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for root in (ours, theirs):
        published_files.write_task(root, task, "vilt")
    layout = resolve_layout(task, "vilt", {})
    for files in (*layout.train, *layout.held_out):
        write_arrow(theirs / files.texts, list(ROWS[task][1](Path(files.texts).stem)))
    expected, actual = (read_task_data(root, task, "vilt") for root in (ours, theirs))
    for name in ("train", "held_out"):
        first, second = getattr(expected, name), getattr(actual, name)
        assert list(first.keys) == list(second.keys)
        for field in ("texts", "labels", "scores"):
            np.testing.assert_array_equal(
                np.concatenate(getattr(first, field).values),
                np.concatenate(getattr(second, field).values),
            )
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(
            np.concatenate(first.image_data.pixels.values),
            np.concatenate(second.image_data.pixels.values),
        )
    assert actual.answers == expected.answers


def test_every_kind_of_image_is_read_as_pillow_converts_it(tmp_path: Path) -> None:
    """`get_raw_image`: `Image.open(...).convert("RGB")`, whatever the file's name says, and not
    turned as its EXIF tag asks for."""
    published_files.write_task(tmp_path, "vqa", "vilt")
    row = next(ROWS["vqa"][1]("x"))
    images = odd_images()
    rows = [row | {"image": image, "image_id": n} for n, image in enumerate(images.values())]
    write_arrow(tmp_path / "vilt/vqav2_rest_val.arrow", rows)
    split = read_task_data(tmp_path, "vqa", "vilt").held_out
    assert isinstance(split.image_data, Pixels)
    for number, (name, encoded) in enumerate(images.items()):
        with Image.open(io.BytesIO(encoded)) as image:
            assert image.size == (48, 32), name
            rgb = image.convert("RGB")
        expected = np.asarray(rgb.resize((96, 64), Image.Resampling.BICUBIC))
        (actual,) = split.image_data.pixels.rows(np.array([number]))
        np.testing.assert_array_equal(actual.reshape(64, 96, 3), expected, err_msg=name)


def with_types(task: str, **types: pa.DataType) -> tuple[list[dict[str, Any]], pa.Table]:
    kind, make = ROWS[task]
    rows = list(make("x"))
    fields = {field.name: types.get(field.name, field.type) for field in SCHEMAS[kind]}
    return rows, pa.Table.from_pylist(rows, schema=pa.schema(SCHEMAS[kind])).cast(pa.schema(fields))


@pytest.mark.parametrize(
    ("task", "types"),
    [
        ("vqa", {"image": pa.large_binary()}),
        ("vqa", {"image": pa.binary_view()}),
        ("vqa", {"answer_labels": pa.list_(pa.large_list(pa.int32()))}),
        ("vqa", {"answer_scores": pa.list_(pa.list_(pa.float32()))}),
        ("vqa", {"questions": pa.large_list(pa.string_view()), "split": pa.large_string()}),
        ("vqa", {"question_id": pa.list_(pa.string()), "image_id": pa.string()}),
        ("retrieval", {"image_id": pa.dictionary(pa.int32(), pa.string())}),
        ("nlvr2", {"identifier": pa.large_string(), "image_1": pa.large_binary()}),
        ("snli_ve", {"labels": pa.list_(pa.uint8())}),
    ],
)
def test_other_types_of_the_same_values_are_read(
    tmp_path: Path, task: str, types: dict[str, pa.DataType]
) -> None:
    rows, table = with_types(task, **types)
    file = tmp_path / "a.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    opened = ArrowTable(file, ROWS[task][0])
    names = opened.image_columns()
    assert [tuple(map(bytes, each)) for each in opened.image_bytes()] == [
        tuple(row[name] for name in names) for row in rows
    ]
    columns = [name for name in rows[0] if name not in names]
    for actual, row in zip(opened.rows(columns), rows, strict=True):
        assert {name: plain(actual[name]) for name in columns} == {
            name: plain(row[name]) for name in columns
        }


def plain(value: Any) -> Any:
    """Take float32 for what it was rounded from, and integers for their text."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def test_compressed_tables_and_ids_of_numbers_are_read(tmp_path: Path) -> None:
    published_files.write_task(tmp_path, "retrieval", "vilt")
    file = tmp_path / "vilt/f30k_caption_karpathy_val.arrow"
    rows = [row | {"image_id": 7} for row in ROWS["retrieval"][1]("val")]
    table = pa.Table.from_pylist(rows)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(file), "wb") as sink,
        pa.ipc.new_file(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table)
    split = read_task_data(tmp_path, "retrieval", "vilt").held_out
    assert list(split.keys)[:2] == ["7#0", "7#1"]


def test_columns_that_the_dataset_class_does_not_read_may_be_missing(tmp_path: Path) -> None:
    row = next(ROWS["vqa"][1]("x"))
    del row["image_id"], row["split"]
    write_arrow(tmp_path / "a.arrow", [row])
    assert len(list(ArrowTable(tmp_path / "a.arrow", "vqa").image_bytes())) == 1
    del row["answers"]
    write_arrow(tmp_path / "a.arrow", [row])
    with pytest.raises(DataError, match="has no column answers"):
        ArrowTable(tmp_path / "a.arrow", "vqa")


def test_answers_that_are_not_strings_are_refused(tmp_path: Path) -> None:
    """ViLT compares them with the string "True": of JSON's `true` it would make "False"."""
    rows = [row | {"answers": [True, False]} for row in ROWS["nlvr2"][1]("x")]
    write_arrow(tmp_path / "a.arrow", rows)
    with pytest.raises(DataError, match=r"column answers is list<.*bool>, not list<.*string>"):
        ArrowTable(tmp_path / "a.arrow", "nlvr2")


def test_questions_without_answers_are_read(tmp_path: Path) -> None:
    """Of a question without a label, `vqav2_dataset.py` makes an empty target."""
    row = next(ROWS["vqa"][1]("x"))
    row |= {name: [[], [], row[name][2]] for name in ("answers", "answer_labels", "answer_scores")}
    published_files.write_task(tmp_path, "vqa", "vilt")
    write_table(tmp_path / "vilt/vqav2_rest_val.arrow", "vqa", [row])
    split = read_task_data(tmp_path, "vqa", "vilt").held_out
    assert [each.tolist() for each in split.labels.rows(np.arange(3))] == [[], [], [2]]
