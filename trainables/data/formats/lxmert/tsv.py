"""LXMERT's files (Tan and Bansal 2019): detected objects in TSV, sentences in JSON lists.

A TSV file has no header, one image per line and the ten columns of `TSV_COLUMNS`; arrays are the
base64 of their bytes. JSON lists are read entry by entry with
`trainables.data.formats.json_stream`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.formats.json_stream import read_json, write_json
from trainables.errors import DataError

TSV_COLUMNS = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
ARRAY_COLUMNS: Mapping[str, tuple[type, int]] = {
    "objects_id": (np.int64, 1),
    "objects_conf": (np.float32, 1),
    "attrs_id": (np.int64, 1),
    "attrs_conf": (np.float32, 1),
    "boxes": (np.float32, 2),
    "features": (np.float32, 2),
}
"""Type and number of axes of each column of arrays, one row per box. Boxes are x1, y1, x2, y2 in
pixels; object and attribute ids do not count the background."""
ANSWERS_FILE = "trainval_ans2label.json"

_ADVICE = "download or write this file again"


@dataclass(frozen=True, slots=True)
class TsvLine:
    """One image of a TSV file; its columns are decoded on access."""

    file: Path
    number: int
    fields: list[bytes]

    @property
    def name(self) -> str:
        return self.fields[0].decode()

    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return self._integer("img_h"), self._integer("img_w")

    def array(self, column: str) -> NDArray[Any]:
        """Return a column as (boxes,) or (boxes, width), read-only. Raises DataError if it is
        damaged."""
        dtype, axes = ARRAY_COLUMNS[column]
        boxes = self._integer("num_boxes")
        try:
            raw = base64.b64decode(self.fields[TSV_COLUMNS.index(column)], validate=True)
            array: NDArray[Any] = np.frombuffer(raw, dtype)
            array = array.reshape((boxes,) if axes == 1 else (boxes, -1))
        except (binascii.Error, ValueError) as error:
            raise self.error(f"{column} cannot be decoded ({error})") from error
        if column == "boxes" and array.shape[1] != 4:
            raise self.error(f"boxes have {array.shape[1]} numbers, not 4")
        return array

    def error(self, what: str) -> DataError:
        return DataError(f"{self.file}: line {self.number} ({self.name}): {what}; {_ADVICE}")

    def _integer(self, column: str) -> int:
        try:
            value = int(self.fields[TSV_COLUMNS.index(column)])
        except ValueError:
            value = 0
        if value <= 0:
            raise self.error(f"{column} is not a positive number")
        return value


def read_tsv(file: Path, wanted: Container[str] | None = None) -> Iterator[TsvLine]:
    """Yield all lines that are not empty, or those whose image is in `wanted`. Raises DataError at
    a line that does not have ten columns."""
    try:
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                name, _, _ = raw.partition(b"\t")
                if wanted is not None and name.decode(errors="replace") not in wanted:
                    continue
                fields = raw.rstrip(b"\r\n").split(b"\t")
                if fields == [b""]:
                    continue
                if len(fields) != len(TSV_COLUMNS):
                    what = f"line {number} has {len(fields)} columns, not {len(TSV_COLUMNS)}"
                    raise DataError(f"{file}: {what}; {_ADVICE}")
                yield TsvLine(file, number, fields)
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; {_ADVICE}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); {_ADVICE}") from error


def write_tsv(file: Path, images: Iterable[Mapping[str, Any]]) -> int:
    """Write one line per image, each a mapping from `TSV_COLUMNS` to values; return their number.
    `num_boxes` may be omitted. The same images give the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with file.open("wb") as stream:
        for image in images:
            fields = []
            for column in TSV_COLUMNS:
                if column == "num_boxes":
                    fields.append(str(len(image["boxes"])).encode())
                elif column in ARRAY_COLUMNS:
                    raw = np.asarray(image[column], ARRAY_COLUMNS[column][0]).tobytes()
                    fields.append(base64.b64encode(raw))
                else:
                    fields.append(str(image[column]).encode())
            stream.write(b"\t".join(fields) + b"\n")
            count += 1
    return count


def read_answers(file: Path) -> tuple[str, ...]:
    """Return the answers of a file {answer: label}, in the order of their labels. Raises DataError
    unless the labels are 0 to n - 1."""
    labels: dict[str, int] = read_json(file, dict, _ADVICE)
    if sorted(labels.values()) != list(range(len(labels))):
        what = f"its {len(labels):,} labels are not 0 to {len(labels) - 1:,}, each once"
        raise DataError(f"{file}: {what}; {_ADVICE}")
    return tuple(sorted(labels, key=labels.__getitem__))


def write_answers(folder: Path, answers: Sequence[str]) -> None:
    """Write `trainval_ans2label.json` and `trainval_label2ans.json`."""
    write_json(folder / ANSWERS_FILE, {answer: label for label, answer in enumerate(answers)})
    write_json(folder / "trainval_label2ans.json", list(answers))
