"""ViLT's tables (Kim et al. 2021), also used by METER: Arrow IPC files with one row per encoded
image and all its texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from trainables.errors import DataError, is_damage

TableKind: TypeAlias = str
"""A key of `SCHEMAS`."""

_TEXTS = pa.list_(pa.string())
SCHEMAS: Mapping[TableKind, pa.Schema] = {
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
"""The columns that the authors' scripts write. NLVR2's answers are "True" or "False"; a sentence
pair is [premise, hypothesis]."""
READ_COLUMNS: Mapping[TableKind, tuple[str, ...]] = {
    "vqa": ("questions", "question_id", "answers", "answer_labels", "answer_scores"),
    "nlvr2": ("questions", "answers", "identifier"),
    "snli": ("sentences", "labels"),
    "caption": ("caption", "image_id"),
}
"""The columns that are read besides the images; a table need not have the others."""
_IDS = ("image_id", "question_id", "identifier")
"""Columns of ids, which may be strings or integers."""

_ROWS_PER_BATCH = 256
"""Rows of a written batch, and of the slices of text columns converted to Python values."""
_ADVICE = "write this table again"


class ArrowTable:
    """An open, memory-mapped table of one kind. Raises DataError if the file is missing, is not an
    Arrow file, or does not have the columns of its kind that are read."""

    def __init__(self, file: Path, kind: TableKind) -> None:
        self.file = file
        self.kind = kind
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(file)))
        except FileNotFoundError:
            raise DataError(f"{file}: no such file; {_ADVICE}") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{file}: is not a complete Arrow file ({error}); {_ADVICE}",
                repeats=is_damage(error),
            ) from error
        schema = self._reader.schema
        for name in (*self.image_columns(), *READ_COLUMNS[kind]):
            if name not in schema.names:
                raise DataError(f"{file}: has no column {name}; {_ADVICE}")
            field, field_type = SCHEMAS[kind].field(name), schema.field(name).type
            if not _is_compatible(field_type, field.type, is_id=name in _IDS):
                what = f"column {field.name} is {field_type}, not {field.type}"
                raise DataError(f"{file}: {what}; {_ADVICE}")

    def image_columns(self) -> list[str]:
        """Return the names of the columns of images."""
        return [name for name in SCHEMAS[self.kind].names if name.startswith("image")][
            : 2 if self.kind == "nlvr2" else 1
        ]

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield all rows in order, as Python values of `columns`."""
        for batch in self._batches(columns):
            for start in range(0, batch.num_rows, _ROWS_PER_BATCH):
                yield from batch.slice(start, _ROWS_PER_BATCH).to_pylist()

    def image_bytes(self) -> Iterator[tuple[pa.Buffer, ...]]:
        """Yield the encoded images of all rows in order, as views of the file."""
        names = self.image_columns()
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
                raise DataError(
                    f"{self.file}: {what}; {_ADVICE}", repeats=is_damage(error)
                ) from error
            yield batch.select(list(columns))


def write_table(file: Path, kind: TableKind, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as they are produced, each a mapping from the kind's columns to values; return
    their number. The same rows give the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMAS[kind]
    rows = iter(rows)
    count = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        while block := list(islice(rows, _ROWS_PER_BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(block, schema=schema))
            count += len(block)
    return count


def answer_names(tables: Iterable[ArrowTable]) -> tuple[str, ...]:
    """Return the answers in the order of their labels, collected from the training and validation
    tables as in ViLT's data module; a label that no row uses is called "unknown"."""
    names: dict[int, str] = {}
    for table in tables:
        for row in table.rows(["answers", "answer_labels"]):
            answers = chain.from_iterable(row["answers"] or ())
            labels = chain.from_iterable(row["answer_labels"] or ())
            names.update(zip(labels, answers, strict=False))
    return tuple(names.get(label, "unknown") for label in range(max(names, default=-1) + 1))


def _is_compatible(actual: pa.DataType, expected: pa.DataType, *, is_id: bool = False) -> bool:
    """Accept every type that pyarrow has for the same Python values, such as large and small
    offsets, dictionaries of strings and integers of any width. Lists of the null type are those of
    which all are empty. Ids may be strings or integers."""
    if pa.types.is_null(actual):
        return True
    if pa.types.is_list(expected):
        return _is_list(actual) and _is_compatible(
            actual.value_type, expected.value_type, is_id=is_id
        )
    if pa.types.is_binary(expected):
        return any(test(actual) for test in _IS_BINARY)
    if pa.types.is_dictionary(actual):
        actual = actual.value_type
    if is_id:
        return _is_string(actual) or bool(pa.types.is_integer(actual))
    if pa.types.is_string(expected):
        return _is_string(actual)
    is_number = pa.types.is_floating if pa.types.is_floating(expected) else pa.types.is_integer
    return bool(is_number(actual))


def _is_list(actual: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(actual) for test in tests)


def _is_string(actual: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(actual) for test in tests)


_IS_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
