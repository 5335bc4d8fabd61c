"""UNITER's databases (Chen et al. 2020): LMDB environments of regions and of tokenised texts.

An image database is a folder with one environment, named after the rule that selected its boxes,
and a JSON file of box counts. A text database is an environment whose folder also has JSON files:
the special ids, the length of each text, the image of each text. Nothing is unpickled: arrays are
decoded from their bytes.
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
from trainables.data.formats.uniter import FIRST_BOXES_DATABASES
from trainables.data.formats.uniter.arrays import from_npz, pack_array, to_npz, unpack_record
from trainables.data.formats.uniter.files import create_environment, find, open_environment
from trainables.errors import DataError

IMAGE_FIELDS = {"features": 2, "norm_bb": 2, "conf": 1, "soft_labels": 2}
"""Fields of an image's record, with their number of axes. Per box: a feature vector; x1, y1, x2,
y2, w, h over the image's side; the detector's confidence; its class probabilities, class 0 the
background."""
REFCOCO_FILES = ("refs", "annotations", "images", "categories")
"""JSON files that only text databases of referring expressions have."""

_ADVICE = "download or write this database again"


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxRule:
    """Selects the detector's boxes that a database keeps, in the detector's order.

    It keeps those with confidence above `threshold`, at least `min_boxes` and at most `max_boxes`;
    with threshold -1 it keeps the first `max_boxes`.
    """

    threshold: float = 0.2
    min_boxes: int = 10
    max_boxes: int = 100

    @property
    def environment_name(self) -> str:
        if self.threshold == -1:
            return f"feat_numbb{self.max_boxes}"
        return f"feat_th{self._suffix}"

    @property
    def counts_file(self) -> str | None:
        return None if self.threshold == -1 else f"nbb_th{self._suffix}.json"

    @property
    def _suffix(self) -> str:
        return f"{self.threshold:g}_max{self.max_boxes}_min{self.min_boxes}"

    def count(self, fields: Mapping[str, NDArray[Any]]) -> int:
        """Return the number of boxes to keep; the image may have fewer."""
        if self.threshold == -1:
            return self.max_boxes
        return min(
            self.max_boxes, max(self.min_boxes, int((fields["conf"] > self.threshold).sum()))
        )


def box_rule(name: str) -> BoxRule:
    """Return the rule of the published image database `name`."""
    return BoxRule(threshold=-1) if name in FIRST_BOXES_DATABASES else BoxRule()


class ImageDb:
    """An open image database, which serves this process and its threads. They cannot open it again
    before `close`, because LMDB does not allow it.

    Raises DataError if the folder has no environment of the rule, plain or compressed.
    """

    def __init__(self, folder: Path, rule: BoxRule) -> None:
        names = [
            rule.environment_name,
            f"{rule.environment_name}_compressed",
            "all",
            "all_compressed",
        ]
        existing = [name for name in names if (folder / name).is_dir()]
        if not existing:
            raise DataError(f"{folder}: holds no folder {' or '.join(names)}; {_ADVICE}")
        self.folder = folder / existing[0]
        self._rule = rule
        self._compressed = existing[0].endswith("_compressed")
        self._counts: dict[str, int] | None = None
        if rule.counts_file is not None and not existing[0].startswith("all"):
            self._counts = read_json(folder / rule.counts_file, dict, _ADVICE)
        self._env = open_environment(self.folder)

    def close(self) -> None:
        self._env.close()

    def __contains__(self, name: str) -> bool:
        with self._env.begin() as txn:
            return txn.get(name.encode()) is not None

    def names(self) -> list[str]:
        """Return the image names in the order written."""
        with self._env.begin() as txn:
            listed = txn.get(b"__keys__")
            if listed is not None:
                return [str(name) for name in json.loads(bytes(listed))]
            return [bytes(key).decode() for key in txn.cursor().iternext(values=False)]

    def count(self, name: str) -> int | None:
        """Return an image's number of boxes from the file of counts; None if there is no such
        file."""
        return None if self._counts is None else self._counts.get(name)

    def read(self, name: str, fields: Iterable[str] = IMAGE_FIELDS) -> dict[str, NDArray[Any]]:
        """Return those of `fields` that the record has, each for n boxes; arrays may be read-only.

        Raises DataError if the image is missing, damaged or of the wrong shape or type.
        """
        with self._env.begin(buffers=True) as txn:
            raw = find(txn, self.folder, name)
            if raw is None:
                raise DataError(f"{self.folder}: holds no image {name}; {_ADVICE}")
            try:
                record = from_npz(raw, IMAGE_FIELDS) if self._compressed else unpack_record(raw)
            except (
                ValueError,
                TypeError,
                KeyError,
                zipfile.BadZipFile,
                zlib.error,
                EOFError,
            ) as error:
                what = f"the record of {name} cannot be decoded ({error})"
                raise DataError(f"{self.folder}: {what}; {_ADVICE}") from error
        self._check(name, record)
        if self._counts is not None and name not in self._counts:
            counts = f"{self.folder.parent / str(self._rule.counts_file)}"
            raise DataError(f"{counts}: has no count for {name}; {_ADVICE}")
        num_boxes = self._rule.count(record) if self._counts is None else self._counts[name]
        return {field: record[field][:num_boxes] for field in fields if field in record}

    def _check(self, name: str, record: Mapping[str, Any]) -> None:
        missing = {"features", "norm_bb"} - record.keys()
        if self._counts is None and self._rule.threshold != -1 and "conf" not in record:
            missing.add("conf")
        if missing:
            what = f"the record of {name} has no {' and no '.join(sorted(missing))}"
            raise DataError(f"{self.folder}: {what}; {_ADVICE}")
        boxes = len(record["norm_bb"]) if np.ndim(record["norm_bb"]) else 0
        for field, axes in IMAGE_FIELDS.items():
            array = record.get(field)
            if array is None:
                continue
            wrong = not isinstance(array, np.ndarray) or array.ndim != axes or len(array) != boxes
            if wrong or array.dtype.kind != "f" or (field == "norm_bb" and array.shape[1] != 6):
                what = f"{field} of {name} is {_type_text(array)}, not floats of {boxes} boxes"
                raise DataError(f"{self.folder}: {what}; {_ADVICE}")


def write_image_db(
    folder: Path,
    images: Iterable[tuple[str, Mapping[str, NDArray[Any]]]],
    *,
    rule: BoxRule,
    compressed: bool = False,
) -> int:
    """Write `folder` (which must not exist) from (file name, fields) pairs; return their number.

    Fields are those of `IMAGE_FIELDS`, in the detector's order. `conf` is only needed if the rule
    has a threshold. Floats are stored as float16, as the authors do. The same images give the same
    bytes.
    """
    environment = folder / (rule.environment_name + "_compressed" * compressed)
    counts: dict[str, int] = {}
    with create_environment(environment) as put:
        for name, fields in images:
            counts[name] = rule.count(fields)
            record = {
                field: np.ascontiguousarray(array[: counts[name]], dtype=np.float16)
                for field, array in fields.items()
            }
            put(name, to_npz(record) if compressed else msgpack.packb(record, default=pack_array))
        put("__keys__", json.dumps(list(counts)).encode())
    if rule.counts_file is not None:
        write_json(folder / rule.counts_file, counts)
    return len(counts)


class TextDb:
    """An open text database; `meta` is the contents of its `meta.json`. Like an `ImageDb`, it
    serves this process and its threads, which cannot open it again before `close`.

    Raises DataError if a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = read_json(folder / "meta.json", dict, _ADVICE)
        self._env = open_environment(folder)

    def close(self) -> None:
        self._env.close()

    def lengths(self) -> Iterator[tuple[str, int]]:
        """Yield (id, number of tokens without [CLS] and [SEP]) in the file's order; for VCR the
        length is that of the longest sequence."""
        name = "id2len.json"
        if not (self.folder / name).exists() and (self.folder / "id2len_qar.json").exists():
            name = "id2len_qar.json"
        for key, length in read_pairs(self.folder / name, _ADVICE):
            if not isinstance(length, int):
                what = f"has the length {length!r} for {key}, not a number of tokens"
                raise DataError(f"{self.folder / name}: {what}; {_ADVICE}")
            yield key, length

    def read(self, key: str) -> dict[str, Any]:
        """Return a record. Raises DataError if it is missing or damaged."""
        with self._env.begin(buffers=True) as txn:
            raw = find(txn, self.folder, key)
            if raw is None:
                raise DataError(f"{self.folder}: holds no record {key}; {_ADVICE}")
            try:
                record: dict[str, Any] = unpack_record(lz4.frame.decompress(raw))
            except (RuntimeError, ValueError, TypeError, KeyError) as error:
                what = f"the record {key} cannot be decoded ({error})"
                raise DataError(f"{self.folder}: {what}; {_ADVICE}") from error
        if not isinstance(record, dict):
            raise DataError(f"{self.folder}: the record {key} is not a mapping; {_ADVICE}")
        return record


def write_text_db(
    folder: Path,
    records: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    meta: Mapping[str, Any],
    refcoco_files: Mapping[str, Any] | None = None,
) -> int:
    """Write `folder` (which must not exist) from (id, record) pairs; return their number.

    A record has the fields that the task's readers expect (`input_ids` without [CLS] and [SEP],
    `img_fname`, `target`, ...). `meta` has `CLS`, `SEP`, `MASK`, `UNK` and `v_range`.
    `refcoco_files` has the contents of the files `REFCOCO_FILES`. The same records give the same
    bytes.
    """
    lengths: dict[str, dict[str, int]] = defaultdict(dict)
    txt2img: dict[str, Any] = {}
    img2txts: dict[str, list[str]] = defaultdict(list)
    with create_environment(folder) as put:
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
    for name in REFCOCO_FILES if refcoco_files is not None else ():
        write_json(folder / f"{name}.json", (refcoco_files or {})[name])
    return len(txt2img)


def _lengths(record: Mapping[str, Any]) -> dict[str, int]:
    question = len(record["input_ids"])
    if "input_ids_as" not in record:
        return {"id2len": question}
    answers = [len(ids) for ids in record["input_ids_as"]]
    rationale = max(len(ids) for ids in record["input_ids_rs"])
    right = answers[max(0, record["qa_target"])]
    return {"id2len_qa": question + max(answers), "id2len_qar": question + right + rationale}


def _type_text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
