"""UNITER's databases (Chen et al. 2020): LMDB environments of regions and of tokenised texts.

An image database is a folder with one environment, named by the rule that chose its boxes, and a
JSON file of box counts. A text database is an environment whose folder also holds JSON files: the
special ids, the length of every text, which image it goes with. Nothing in either is ever
unpickled: arrays are decoded from their bytes.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.frame
import msgpack
import numpy as np
from numpy.typing import NDArray

from trainables.data.formats.json_stream import read_json, read_pairs, write_json
from trainables.data.formats.uniter.arrays import as_npz, from_npz, packed, unpacked
from trainables.data.formats.uniter.files import opened, written
from trainables.data.schema.layouts import FIRST_BOXES
from trainables.errors import DataError

FIELDS = {"features": 2, "norm_bb": 2, "conf": 1, "soft_labels": 2}
"""What an image's record may hold, with the number of axes: per box a feature vector; x1, y1, x2,
y2, w, h over the image's side; the detector's confidence; its class probabilities, 0 background."""
REFERRING = ("refs", "annotations", "images", "categories")
"""JSON files that a text database of referring expressions holds beside the others'."""

_CURE = "download or write this database again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Boxes:
    """Which of the detector's boxes a database keeps, in the detector's order: those with
    confidence above `threshold`, but between `least` and `most`; with threshold -1 the first
    `most`."""

    threshold: float = 0.2
    least: int = 10
    most: int = 100

    @property
    def environment(self) -> str:
        if self.threshold == -1:
            return f"feat_numbb{self.most}"
        return f"feat_th{self._rule}"

    @property
    def counts_file(self) -> str | None:
        return None if self.threshold == -1 else f"nbb_th{self._rule}.json"

    @property
    def _rule(self) -> str:
        return f"{self.threshold:g}_max{self.most}_min{self.least}"

    def count(self, fields: Mapping[str, NDArray[Any]]) -> int:
        """How many to keep of an image's; it may have fewer."""
        if self.threshold == -1:
            return self.most
        return min(self.most, max(self.least, int((fields["conf"] > self.threshold).sum())))


def boxes_of(name: str) -> Boxes:
    """The rule of a published image database, by its name."""
    return Boxes(threshold=-1) if name in FIRST_BOXES else Boxes()


class ImageDb:
    """An opened image database, for this process and its threads; LMDB allows no second opening
    until `close`.

    Raises DataError if there is no environment of the rule, in plain or compressed form.
    """

    def __init__(self, folder: Path, boxes: Boxes) -> None:
        names = [boxes.environment, f"{boxes.environment}_compressed", "all", "all_compressed"]
        found = [name for name in names if (folder / name).is_dir()]
        if not found:
            raise DataError(f"{folder}: holds no folder {' or '.join(names)}; {_CURE}")
        self.folder = folder / found[0]
        self._boxes = boxes
        self._compressed = found[0].endswith("_compressed")
        self._counts: dict[str, int] | None = None
        if boxes.counts_file is not None and not found[0].startswith("all"):
            self._counts = read_json(folder / boxes.counts_file, dict, _CURE)
        self._env = opened(self.folder)

    def close(self) -> None:
        self._env.close()

    def __contains__(self, name: str) -> bool:
        with self._env.begin() as txn:
            return txn.get(name.encode()) is not None

    def names(self) -> list[str]:
        """In the order written."""
        with self._env.begin() as txn:
            listed = txn.get(b"__keys__")
            if listed is not None:
                return [str(name) for name in json.loads(bytes(listed))]
            return [bytes(key).decode() for key in txn.cursor().iternext(values=False)]

    def count(self, name: str) -> int | None:
        """Boxes of an image by the file of counts; None where the database has no such file."""
        return None if self._counts is None else self._counts.get(name)

    def read(self, name: str, fields: Iterable[str] = FIELDS) -> dict[str, NDArray[Any]]:
        """The `fields` that the record has, n boxes each; arrays may be read-only.

        Raises DataError if there is no such image, it is damaged, or has another form.
        """
        with self._env.begin(buffers=True) as txn:
            raw = txn.get(name.encode())
            if raw is None:
                raise DataError(f"{self.folder}: holds no image {name}; {_CURE}")
            try:
                record = from_npz(raw, FIELDS) if self._compressed else unpacked(raw)
            except (
                ValueError,
                TypeError,
                KeyError,
                zipfile.BadZipFile,
                zlib.error,
                EOFError,
            ) as error:
                what = f"the record of {name} cannot be decoded ({error})"
                raise DataError(f"{self.folder}: {what}; {_CURE}") from error
        self._check(name, record)
        if self._counts is not None and name not in self._counts:
            counts = f"{self.folder.parent / str(self._boxes.counts_file)}"
            raise DataError(f"{counts}: has no count for {name}; {_CURE}")
        kept = self._boxes.count(record) if self._counts is None else self._counts[name]
        return {field: record[field][:kept] for field in fields if field in record}

    def _check(self, name: str, record: Mapping[str, Any]) -> None:
        missing = {"features", "norm_bb"} - record.keys()
        if self._counts is None and self._boxes.threshold != -1 and "conf" not in record:
            missing.add("conf")
        if missing:
            what = f"the record of {name} has no {' and no '.join(sorted(missing))}"
            raise DataError(f"{self.folder}: {what}; {_CURE}")
        boxes = len(record["norm_bb"]) if np.ndim(record["norm_bb"]) else 0
        for field, axes in FIELDS.items():
            array = record.get(field)
            if array is None:
                continue
            wrong = not isinstance(array, np.ndarray) or array.ndim != axes or len(array) != boxes
            if wrong or array.dtype.kind != "f" or (field == "norm_bb" and array.shape[1] != 6):
                what = f"{field} of {name} is {_form(array)}, not floats of {boxes} boxes"
                raise DataError(f"{self.folder}: {what}; {_CURE}")


def write_image_db(
    folder: Path,
    images: Iterable[tuple[str, Mapping[str, NDArray[Any]]]],
    *,
    boxes: Boxes,
    compressed: bool = False,
) -> int:
    """Writes `folder` (which must not exist) from (file name, fields) pairs; how many.

    Fields are those of `FIELDS`, in the detector's order; `conf` decides how many are kept
    and may be missing where it does not. Floats are stored as float16, as the authors do. The same
    images give the same bytes.
    """
    environment = folder / (boxes.environment + "_compressed" * compressed)
    counts: dict[str, int] = {}
    with written(environment) as put:
        for name, fields in images:
            counts[name] = boxes.count(fields)
            kept = {
                field: np.ascontiguousarray(array[: counts[name]], dtype=np.float16)
                for field, array in fields.items()
            }
            put(name, as_npz(kept) if compressed else msgpack.packb(kept, default=packed))
        put("__keys__", json.dumps(list(counts)).encode())
    if boxes.counts_file is not None:
        write_json(folder / boxes.counts_file, counts)
    return len(counts)


class TextDb:
    """An opened text database, for this process and its threads, as `ImageDb`; `meta` is its
    `meta.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / "meta.json", dict, _CURE)
        self._env = opened(folder)

    def close(self) -> None:
        self._env.close()

    def lengths(self) -> Iterator[tuple[str, int]]:
        """(id, number of tokens without [CLS] and [SEP]) in the file's order; for VCR the length
        of its longest sequence."""
        name = "id2len.json"
        if not (self.folder / name).exists() and (self.folder / "id2len_qar.json").exists():
            name = "id2len_qar.json"
        yield from read_pairs(self.folder / name, _CURE)

    def read(self, key: str) -> dict[str, Any]:
        """Raises DataError if there is no such record or it is damaged."""
        with self._env.begin(buffers=True) as txn:
            raw = txn.get(key.encode())
            if raw is None:
                raise DataError(f"{self.folder}: holds no record {key}; {_CURE}")
            try:
                record: dict[str, Any] = unpacked(lz4.frame.decompress(raw))
            except (RuntimeError, ValueError, TypeError, KeyError) as error:
                what = f"the record {key} cannot be decoded ({error})"
                raise DataError(f"{self.folder}: {what}; {_CURE}") from error
        if not isinstance(record, dict):
            raise DataError(f"{self.folder}: the record {key} is no mapping; {_CURE}")
        return record


def write_text_db(
    folder: Path,
    records: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    meta: Mapping[str, Any],
    referring: Mapping[str, Any] | None = None,
) -> int:
    """Writes `folder` (which must not exist) from (id, record) pairs; how many.

    A record holds what the task's readers expect (`input_ids` without [CLS] and [SEP], `img_fname`,
    `target`, ...). `meta` has `CLS`, `SEP`, `MASK`, `UNK` and `v_range`. `referring` has the
    contents of the files `REFERRING`. The same records give the same bytes.
    """
    lengths: dict[str, dict[str, int]] = defaultdict(dict)
    txt2img: dict[str, Any] = {}
    img2txts: dict[str, list[str]] = defaultdict(list)
    with written(folder) as put:
        for key, record in records:
            put(key, lz4.frame.compress(msgpack.packb(record, use_bin_type=True)))
            for name, length in _lengths(record).items():
                lengths[name][key] = length
            txt2img[key] = record["img_fname"]
            if isinstance(record["img_fname"], str):
                img2txts[record["img_fname"]].append(key)
    for name, values in (lengths or {"id2len": {}}).items():
        write_json(folder / f"{name}.json", values)
    write_json(folder / "meta.json", meta)
    write_json(folder / "txt2img.json", txt2img)
    if img2txts:
        write_json(folder / "img2txts.json", img2txts)
    for name in REFERRING if referring is not None else ():
        write_json(folder / f"{name}.json", (referring or {})[name])
    return len(txt2img)


def _lengths(record: Mapping[str, Any]) -> dict[str, int]:
    question = len(record["input_ids"])
    if "input_ids_as" not in record:
        return {"id2len": question}
    answers = [len(ids) for ids in record["input_ids_as"]]
    rationale = max(len(ids) for ids in record["input_ids_rs"])
    right = answers[max(0, record["qa_target"])]
    return {"id2len_qa": question + max(answers), "id2len_qar": question + right + rationale}


def _form(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
