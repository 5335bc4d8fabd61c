"""ViLT's tables."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.published_files import ROWS, make_png
from trainables.data.formats.vilt.arrow import (
    SCHEMAS,
    ArrowTable,
    TableKind,
    answer_names,
    write_table,
)
from trainables.errors import DataError

KINDS = [(kind, rows) for kind, rows in ROWS.values()]


@pytest.mark.parametrize(("kind", "rows"), KINDS, ids=[kind for kind, _ in KINDS])
def test_rows_are_read_as_written(tmp_path: Path, kind: TableKind, rows) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "a.arrow"
    count = write_table(file, kind, rows("train"))
    table = ArrowTable(file, kind)
    assert list(table.rows(SCHEMAS[kind].names)) == list(rows("train"))
    images = [tuple(map(bytes, each)) for each in table.image_bytes()]
    assert images == [tuple(row[name] for name in table.image_columns()) for row in rows("train")]
    assert count == len(images)
    write_table(tmp_path / "b.arrow", kind, rows("train"))
    assert (tmp_path / "b.arrow").read_bytes() == file.read_bytes()


def write_like_pandas_3(file: Path, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
    """Write strings with large offsets in one batch, as `pa.Table.from_pandas` does."""
    fields = [
        pa.field(field.name, pa.large_string()) if field.type == pa.string() else field
        for field in schema
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    with pa.OSFile(str(file), "wb") as sink, pa.RecordBatchFileWriter(sink, table.schema) as writer:
        writer.write_table(table)


def test_strings_with_large_offsets_are_read(tmp_path: Path) -> None:
    rows = list(ROWS["nlvr2"][1]("train"))
    write_like_pandas_3(tmp_path / "a.arrow", SCHEMAS["nlvr2"], rows)
    table = ArrowTable(tmp_path / "a.arrow", "nlvr2")
    assert list(table.rows(["identifier", "answers"])) == [
        {"identifier": row["identifier"], "answers": row["answers"]} for row in rows
    ]


def test_empty_lists_may_have_the_null_type(tmp_path: Path) -> None:
    """As in the published `vqav2_test`."""
    empty = ("answers", "answer_labels", "answer_scores")
    types = {field.name: field.type for field in SCHEMAS["vqa"]}
    schema = pa.schema(types | {name: pa.list_(pa.null()) for name in empty})
    row = {key: [] if key in empty else value for key, value in next(ROWS["vqa"][1]("x")).items()}
    write_like_pandas_3(tmp_path / "a.arrow", schema, [row])
    table = ArrowTable(tmp_path / "a.arrow", "vqa")
    assert list(table.rows(["answer_labels"])) == [{"answer_labels": []}]


def test_answers_are_collected_from_all_tables(tmp_path: Path) -> None:
    empty = next(ROWS["vqa"][1]("train"))
    for name, answers, labels in (("a", ["red", "no"], [4, 0]), ("b", ["yes"], [2])):
        row = empty | {"answers": [answers], "answer_labels": [labels]}
        write_table(tmp_path / f"{name}.arrow", "vqa", [row])
    tables = [ArrowTable(tmp_path / f"{name}.arrow", "vqa") for name in "ab"]
    assert answer_names(tables) == ("no", "unknown", "yes", "unknown", "red")


def test_files_that_are_not_such_a_table_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.arrow"
    with pytest.raises(DataError, match="no such file"):
        ArrowTable(file, "caption")
    write_table(file, "caption", ROWS["retrieval"][1]("train"))
    content = file.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 3):
        file.write_bytes(content[:size])
        with pytest.raises(
            DataError, match=r"a.arrow: is not a complete Arrow file \(.*; write this"
        ):
            ArrowTable(file, "caption")
    file.write_bytes(content)
    with pytest.raises(DataError, match="has no column sentences"):
        ArrowTable(file, "snli")
    write_like_pandas_3(
        file, pa.schema({**{f.name: f.type for f in SCHEMAS["snli"]}, "labels": pa.string()}), []
    )
    with pytest.raises(DataError, match=r"column labels is large_string, not list<.*int64>"):
        ArrowTable(file, "snli")


def test_an_image_is_a_view_of_the_file(tmp_path: Path) -> None:
    rows = ({"image": make_png(n), "caption": [], "image_id": "", "split": ""} for n in range(3))
    write_table(tmp_path / "a.arrow", "caption", rows)
    before = pa.total_allocated_bytes()
    images = list(ArrowTable(tmp_path / "a.arrow", "caption").image_bytes())
    assert sum(len(image) for (image,) in images) > 10_000
    assert pa.total_allocated_bytes() - before < 1000
