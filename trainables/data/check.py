"""Check that the published files of a data folder are intact and consistent with each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from trainables.data.cache.write import decode_in_threads
from trainables.data.formats.json_stream import read_json, read_pairs
from trainables.data.formats.lxmert.tsv import read_answers
from trainables.data.formats.uniter.lmdb import TextDb
from trainables.data.open import make_reader
from trainables.data.schema.layouts import CORPORA, LAYOUTS, Layout, resolve_layout, task_files
from trainables.data.schema.records import SPLITS, Decode, ImageKey, Reader, SplitName
from trainables.errors import DataError
from trainables.models import Format
from trainables.spec import Scalar

CheckProgress: TypeAlias = Callable[[str, int, int | None], None]
"""Receives what is being read, the number of examples or images read so far, and their total, which
is None if it is unknown."""

_BOX_TOLERANCE = 1e-3
"""How far rounding to float16 may move a corner out of its image, as a share of the image's
side."""
_IMAGE_SIZE = 32
"""Side in pixels. Images are decoded in full and then resized to it, which costs almost nothing."""
_REPORT_EVERY = 256
"""Examples or images between two reports of progress."""
_MAX_FINDINGS = 5
"""Maximum number of damaged, and of missing, images of a split that are listed: often all of them
have one cause."""
_ADVICE = "download or write this file again"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCount:
    task: str
    format: Format
    split: str
    examples: int
    images: int
    """Number of different images."""
    longest_text: int
    """In tokens, [CLS] and [SEP] included."""
    longest_image: int
    """In regions; 0 for pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    counts: tuple[SplitCount, ...]
    findings: tuple[str, ...]
    """One line each: the file, the problem, what to do."""


@dataclass(frozen=True, slots=True)
class _FolderCheck:
    """The state of a check."""

    root: Path
    progress: CheckProgress
    counts: dict[tuple[str, Format, str], SplitCount] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    regions: dict[tuple[bool, ImageKey], int] = field(default_factory=dict)
    """Number of regions of each intact image, read with or without the detector's classes. An image
    that several tasks share is read once."""


def check_folder(
    root: Path, progress: CheckProgress = lambda what, done, total: None
) -> CheckResult:
    """Read all published files below `root`.

    Memory use is bounded, apart from the names of the images. Raises DataError if there are no
    published files.
    """
    check = _FolderCheck(root, progress)
    choices = [
        (task, file_format, options)
        for task, file_format in LAYOUTS
        for options in _options(root, task, file_format)
    ]
    if not choices:
        folders = ", ".join(sorted({file_format for _, file_format in LAYOUTS}))
        raise DataError(f"{root}: holds no published data; it belongs in its folders {folders}")
    for task, file_format, options in choices:
        files = task_files(task, file_format, options)
        missing = [root / path for path in files if not (root / path).exists()]
        others = f"but other files of {task} ({file_format}) exist"
        check.findings.extend(f"{path}: no such file, {others}; complete it" for path in missing)
        if not missing:
            _check_task(check, task, file_format, resolve_layout(task, file_format, options))
    findings = tuple(dict.fromkeys(check.findings))
    return CheckResult(counts=tuple(check.counts.values()), findings=findings)


def _options(root: Path, task: str, file_format: Format) -> Iterator[Mapping[str, Scalar]]:
    """Yield the options for which `root` has a file of the task's examples."""
    choices: list[Mapping[str, Scalar]] = [{}]
    if task == "retrieval":
        choices = [{"split": "val"}, {"split": "test"}]
    elif task == "pretraining":
        choices = [{"corpora": corpus} for corpus in CORPORA]
    layouts = [resolve_layout(task, file_format, options) for options in choices]
    exists = [any((root / files.texts).exists() for files in each.held_out) for each in layouts]
    if not any(exists):  # training files without held-out ones are a finding, not an absent task
        exists[0] = any((root / files.texts).exists() for files in layouts[0].train)
    yield from (options for options, found in zip(choices, exists, strict=True) if found)


def _check_task(check: _FolderCheck, task: str, file_format: Format, layout: Layout) -> None:
    reader = make_reader(check.root, task, file_format, layout, _IMAGE_SIZE, _IMAGE_SIZE)
    corpus = layout.options.get("corpora", "")
    labels = {
        "train": f"train {corpus}".strip(),
        "held_out": layout.options.get("split", f"held out {corpus}".strip()),
    }
    try:
        for split in SPLITS:
            if (task, file_format, labels[split]) not in check.counts:
                _check_split(check, reader, task, file_format, split, labels[split])
    except DataError as error:
        check.findings.append(str(error))
    finally:
        reader.close()
    if file_format == "uniter":
        for files in (*layout.train, *layout.held_out):
            folder = check.root / files.texts
            check.findings.extend(_text_db_findings(folder, task, check.progress))
    if file_format == "lxmert" and layout.answers_file:
        check.findings.extend(_answer_findings(check.root / layout.answers_file))


def _check_split(
    check: _FolderCheck,
    reader: Reader,
    task: str,
    file_format: Format,
    split: SplitName,
    label: str,
) -> None:
    """Add a count, and a finding for each damaged image. Raises DataError at the first damaged
    example."""
    what = f"{task} ({file_format}), {label}"
    keys: dict[ImageKey, None] = {}
    examples = longest = 0
    for examples, record in enumerate(reader.records(split), 1):
        longest = max(longest, *map(len, record.texts))
        keys.update(dict.fromkeys(record.images))
        if examples % _REPORT_EVERY == 0:
            check.progress(f"{what}: examples", examples, None)
    classes = task == "pretraining"
    wanted = {key: None for key in keys if (classes, key) not in check.regions}
    jobs = (
        (key, partial(_check_image, check.root, key, decode))
        for key, decode in reader.images(split, wanted)
    )
    missing = dict(wanted)
    damaged = 0
    for done, (key, result) in enumerate(decode_in_threads(jobs), 1):
        del missing[key]
        if isinstance(result, int):
            check.regions[classes, key] = result
        elif (damaged := damaged + 1) <= _MAX_FINDINGS:
            check.findings.append(result)
        if done % _REPORT_EVERY == 0:
            check.progress(f"{what}: images", done, len(wanted))
    for key in list(missing)[:_MAX_FINDINGS]:
        where = f"{check.root / str(key[0])}: holds no image {' '.join(map(str, key[1:]))}"
        check.findings.append(f"{where}, which {what} names; complete the data")
    regions = [check.regions.get((classes, key), 0) for key in keys]
    check.counts[task, file_format, label] = SplitCount(
        task=task,
        format=file_format,
        split=label,
        examples=examples,
        images=len(keys),
        longest_text=longest,
        longest_image=max(regions, default=0),
    )


def _check_image(root: Path, key: ImageKey, decode: Decode) -> int | str:
    """Return the number of regions of an image (0 for pixels), or a finding."""
    try:
        image = decode()
    except DataError as error:
        return str(error)
    if "pixels" in image:
        return 0
    boxes, features = image["boxes"], image["features"]
    problem = ""
    if not len(boxes):
        problem = "has no regions"
    elif not np.isfinite(features).all() or not np.isfinite(boxes).all():
        problem = "has features or boxes that are not finite"
    elif boxes[:, :6].min() < -_BOX_TOLERANCE or boxes[:, :6].max() > 1 + _BOX_TOLERANCE:
        low, high = boxes[:, :4].min(), boxes[:, :4].max()
        problem = f"has a box from {low:.3g} to {high:.3g} of its image's side"
    elif (boxes[:, 2:4] < boxes[:, :2] - _BOX_TOLERANCE).any():
        problem = "has a box whose second corner precedes its first"
    if not problem:
        return len(boxes)
    return f"{root / str(key[0])}: {' '.join(map(str, key[1:]))} {problem}; {_ADVICE}"


def _text_db_findings(folder: Path, task: str, progress: CheckProgress) -> Iterator[str]:
    """Compare the JSON files of a text database with its records; yield the first
    difference in each file."""
    try:
        db = TextDb(folder)
    except DataError:
        return  # already a finding
    images_file = "txt2img.json"
    try:
        for done, (key, length) in enumerate(db.lengths(), 1):
            tokens = len(db.read(key)["input_ids"])
            if task != "vcr" and tokens != length:
                what = f"lists {length} tokens for {key}, its record has {tokens}"
                yield f"{folder / 'id2len.json'}: {what}; {_ADVICE}"
                break
            if done % _REPORT_EVERY == 0:
                progress(f"{folder.name}: id2len.json", done, None)
        for key, name in read_pairs(folder / images_file, _ADVICE) if task != "refcoco" else ():
            if db.read(key)["img_fname"] != name:
                what = f"names another image for {key} than its record"
                yield f"{folder / images_file}: {what}; {_ADVICE}"
                break
    except DataError as error:
        yield str(error)
    except KeyError:
        return  # a record without the field is already a finding
    finally:
        db.close()


def _answer_findings(file: Path) -> Iterator[str]:
    other = file.with_name("trainval_label2ans.json")
    try:
        if list(read_answers(file)) != read_json(other, list, _ADVICE):
            yield f"{other}: does not list the answers of {file.name} in their order; {_ADVICE}"
    except DataError as error:
        yield str(error)
