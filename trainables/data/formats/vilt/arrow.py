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

_ROWS_PER_BATCH = 256
"""Rows of a written batch, and of the slices of text columns converted to Python values."""
_ADVICE = "write this table again"


class ArrowTable:
    """An open, memory-mapped table of one kind. Raises DataError if the file is missing, is not an
    Arrow file, or does not have the columns of its kind."""

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
        for field in SCHEMAS[kind]:
            if field.name not in schema.names:
                raise DataError(f"{file}: has no column {field.name}; {_ADVICE}")
            field_type = schema.field(field.name).type
            if not _is_compatible(field_type, field.type):
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


def _is_compatible(actual: pa.DataType, expected: pa.DataType) -> bool:
    """Accept large and small offsets, and the null type, which lists have if all are empty."""
    if pa.types.is_null(actual):
        return True
    if pa.types.is_list(expected):
        is_list = bool(pa.types.is_list(actual) or pa.types.is_large_list(actual))
        return is_list and _is_compatible(actual.value_type, expected.value_type)
    if pa.types.is_string(expected):
        return bool(pa.types.is_string(actual) or pa.types.is_large_string(actual))
    if pa.types.is_binary(expected):
        return bool(pa.types.is_binary(actual) or pa.types.is_large_binary(actual))
    return bool(actual == expected)
