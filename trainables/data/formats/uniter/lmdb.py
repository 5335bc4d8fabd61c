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
from trainables.data.formats.uniter.arrays import (
    from_npz,
    pack_array,
    to_npz,
    unpack_arrays,
    unpack_record,
)
from trainables.data.formats.uniter.files import create_environment, find, open_environment
from trainables.errors import DataError

IMAGE_FIELDS = {"features": 2, "norm_bb": 2, "conf": 1, "soft_labels": 2}
"""Fields of an image's record, with their number of axes. Per box: a feature vector; x1, y1, x2,
y2, w, h over the image's side; the detector's confidence; its class probabilities, class 0 the
background. The authors' extractor (`generate_npz`, ChenRocks/BUTD-UNITER-NLVR2) writes the
confidence with a second axis of length 1."""
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

    An image has the boxes that the rule's file of counts says, as in UNITER's `DetectFeatLmdb`. If
    the file is missing, the environment `all` is read, and boxes are selected by confidence; if
    that is missing too, the boxes are those that were selected when the environment was written.
    Raises DataError if the folder has no environment of the rule, plain or compressed.
    """

    def __init__(self, folder: Path, rule: BoxRule) -> None:
        has_counts = rule.counts_file is not None and (folder / rule.counts_file).exists()
        selected, every = ([name, f"{name}_compressed"] for name in (rule.environment_name, "all"))
        selected_first = has_counts or rule.counts_file is None
        names = selected + every if selected_first else every + selected
        existing = [name for name in names if (folder / name).is_dir()]
        if not existing:
            raise DataError(f"{folder}: holds no folder {' or '.join(selected + every)}; {_ADVICE}")
        self.folder = folder / existing[0]
        self._rule = rule
        self._compressed = existing[0].endswith("_compressed")
        self._selects = existing[0] in every and rule.threshold != -1
        self._counts: dict[str, int] | None = None
        if has_counts and not self._selects:
            self._counts = read_json(folder / str(rule.counts_file), dict, _ADVICE)
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
        Other fields are not looked at, as in the authors' loader.

        Raises DataError if the image is missing, damaged or of the wrong shape or type.
        """
        fields = tuple(fields)
        needed = ("features", "norm_bb", *(["conf"] * self._selects))
        decode = from_npz if self._compressed else unpack_arrays
        with self._env.begin(buffers=True) as txn:
            raw = find(txn, self.folder, name)
            if raw is None:
                raise DataError(f"{self.folder}: holds no image {name}; {_ADVICE}")
            try:
                record = decode(raw, dict.fromkeys((*needed, *fields)))
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
        conf = record.get("conf")
        if isinstance(conf, np.ndarray) and conf.ndim == 2 and conf.shape[1] == 1:
            record["conf"] = conf[:, 0]
        self._check(name, record, needed)
        num_boxes = self._num_boxes(name, record)
        return {field: record[field][:num_boxes] for field in fields if field in record}

    def _num_boxes(self, name: str, record: Mapping[str, NDArray[Any]]) -> int | None:
        """Return the number of boxes to keep, of which the image may have fewer; None for all."""
        if self._selects or self._rule.threshold == -1:
            return self._rule.count(record)
        if self._counts is None:
            return None
        if name not in self._counts:
            counts = f"{self.folder.parent / str(self._rule.counts_file)}"
            raise DataError(f"{counts}: has no count for {name}; {_ADVICE}")
        return self._counts[name]

    def _check(self, name: str, record: Mapping[str, Any], needed: Iterable[str]) -> None:
        if missing := set(needed) - record.keys():
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

    def lengths(self, name: str = "id2len") -> Iterator[tuple[str, int]]:
        """Yield (id, number of tokens without [CLS] and [SEP]) in the order of the file `name`. VCR
        has `id2len_qa` and `id2len_qar` (see `vcr_lengths`)."""
        file = self.folder / f"{name}.json"
        for key, length in read_pairs(file, _ADVICE):
            if not isinstance(length, int):
                what = f"has the length {length!r} for {key}, not a number of tokens"
                raise DataError(f"{file}: {what}; {_ADVICE}")
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


def vcr_lengths(question: int, answers: Iterable[int], rationales: Iterable[int]) -> dict[str, int]:
    """Return the lengths of a VCR record as UNITER's authors count them, by name of the file, from
    those of its texts without [CLS] and [SEP].

    The four sequences of Q->A count as four times the question with the longest answer. QA->R adds
    its longest rationale once. The authors did not release the scripts that wrote their files.
    """
    q_a = 4 * (question + max(answers))
    return {"id2len_qa": q_a, "id2len_qar": q_a + max(rationales)}


def _lengths(record: Mapping[str, Any]) -> dict[str, int]:
    question = len(record["input_ids"])
    if "input_ids_as" not in record:
        return {"id2len": question}
    return vcr_lengths(question, map(len, record["input_ids_as"]), map(len, record["input_ids_rs"]))


def _type_text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
