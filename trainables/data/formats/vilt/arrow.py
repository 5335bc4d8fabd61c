"""ViLT's tables (Kim et al. 2021), which METER shares: Arrow IPC files of encoded images, each with
all its texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from trainables.errors import DataError

Kind: TypeAlias = Literal["caption", "vqa", "nlvr2", "snli"]

_TEXTS = pa.list_(pa.string())
SCHEMAS: Mapping[Kind, pa.Schema] = {
    "caption": pa.schema(
        {"image": pa.binary(), "caption": _TEXTS, "image_id": pa.string(), "split": pa.string()}
    ),
    "vqa": pa.schema(
        {
            "image": pa.binary(),
            "questions": _TEXTS,
            "answers": pa.list_(_TEXTS),
            "answer_labels": pa.list_(pa.list_(pa.int64())),
            "answer_scores": pa.list_(pa.list_(pa.float64())),
            "image_id": pa.int64(),
            "question_id": pa.list_(pa.int64()),
            "split": pa.string(),
        }
    ),
    "nlvr2": pa.schema(
        {
            "image_0": pa.binary(),
            "image_1": pa.binary(),
            "questions": _TEXTS,
            "answers": _TEXTS,
            "identifier": pa.string(),
        }
    ),
    "snli": pa.schema(
        {
            "image": pa.binary(),
            "sentences": pa.list_(_TEXTS),
            "labels": pa.list_(pa.int64()),
        }
    ),
}
"""Columns as the authors' scripts write them. NLVR2's answers are "True" or "False"; a sentence
pair is [premise, hypothesis]."""

_ROWS = 256
"""Rows of a written batch, and of the slices that are turned into Python values: of the texts, not
of the images."""
_CURE = "write this table again"


class ArrowTable:
    """An opened table of one kind, memory-mapped; DataError if it is none or lacks a column."""

    def __init__(self, file: Path, kind: Kind) -> None:
        self.file = file
        self.kind = kind
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(file)))
        except FileNotFoundError:
            raise DataError(f"{file}: no such file; {_CURE}") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file}: is no whole Arrow file ({error}); {_CURE}") from error
        found = self._reader.schema
        for field in SCHEMAS[kind]:
            if field.name not in found.names:
                raise DataError(f"{file}: has no column {field.name}; {_CURE}")
            is_type = found.field(field.name).type
            if not _alike(is_type, field.type):
                what = f"column {field.name} is {is_type}, not {field.type}"
                raise DataError(f"{file}: {what}; {_CURE}")

    def images(self) -> list[str]:
        """Names of the columns of images."""
        return [name for name in SCHEMAS[self.kind].names if name.startswith("image")][
            : 2 if self.kind == "nlvr2" else 1
        ]

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows in order, as Python values of `columns`."""
        for batch in self._batches(columns):
            for start in range(0, batch.num_rows, _ROWS):
                yield from batch.slice(start, _ROWS).to_pylist()

    def image_bytes(self) -> Iterator[tuple[pa.Buffer, ...]]:
        """The encoded images of all rows in order, as views of the file."""
        names = self.images()
        for batch in self._batches(names):
            columns = [batch.column(name) for name in names]
            for row in range(batch.num_rows):
                yield tuple(column[row].as_buffer() for column in columns)

    def _batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for number in range(self._reader.num_record_batches):
            try:
                batch = self._reader.get_batch(number)
                for name in columns:
                    batch.column(name).validate()
            except (pa.ArrowException, OSError) as error:
                what = f"batch {number} cannot be read ({error})"
                raise DataError(f"{self.file}: {what}; {_CURE}") from error
            yield batch.select(list(columns))


def write_table(file: Path, kind: Kind, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes rows, mappings with the names of the kind's columns, as they come; how many. The same
    rows give the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMAS[kind]
    rows = iter(rows)
    count = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        while block := list(islice(rows, _ROWS)):
            writer.write_batch(pa.RecordBatch.from_pylist(block, schema=schema))
            count += len(block)
    return count


def answer_names(tables: Iterable[ArrowTable]) -> tuple[str, ...]:
    """Answers by label, rebuilt from the columns of the tables of training and of validation, as
    ViLT's data module does; a label that no row names is called "unknown"."""
    names: dict[int, str] = {}
    for table in tables:
        for row in table.rows(["answers", "answer_labels"]):
            answers = chain.from_iterable(row["answers"] or ())
            labels = chain.from_iterable(row["answer_labels"] or ())
            names.update(zip(labels, answers, strict=False))
    return tuple(names.get(label, "unknown") for label in range(max(names, default=-1) + 1))


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    """Large or small offsets; a list that is empty throughout may have no type of its own."""
    if pa.types.is_null(found):
        return True
    if pa.types.is_list(expected):
        is_list = bool(pa.types.is_list(found) or pa.types.is_large_list(found))
        return is_list and _alike(found.value_type, expected.value_type)
    if pa.types.is_string(expected):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
    if pa.types.is_binary(expected):
        return bool(pa.types.is_binary(found) or pa.types.is_large_binary(found))
    return bool(found == expected)
