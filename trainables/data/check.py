"""Looks through a data folder: is every published file whole, and do they fit each other?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from trainables.data.cache.write import decoded
from trainables.data.formats.json_stream import read_json, read_pairs
from trainables.data.formats.lxmert.tsv import read_answers
from trainables.data.formats.uniter.lmdb import TextDb
from trainables.data.open import reader_of
from trainables.data.schema.layouts import CORPORA, LAYOUTS, Layout, files_of, layout
from trainables.data.schema.records import SPLITS, Decode, ImageName, Reader, SplitName
from trainables.errors import DataError
from trainables.models import Format
from trainables.spec import Scalar

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""What is being read, how many examples or images of it so far, and of how many in all."""

_OUTSIDE = 1e-3
"""How far rounding to float16 may put a corner outside its image."""
_PIXELS = 32
"""Pictures are decoded whole and then made so small that it costs nothing."""
_TELL_EVERY = 256
_MOST_FINDINGS = 5
"""Per split: damage rarely comes alone."""
_CURE = "download or write this file again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    task: str
    format: Format
    split: str
    examples: int
    images: int
    longest_text: int
    """In tokens, [CLS] and [SEP] included."""
    longest_image: int
    """In regions; 0 for pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    counts: tuple[Count, ...]
    findings: tuple[str, ...]
    """One line each: file, what, cure."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What a walk through the folder gathers."""

    root: Path
    progress: Progress
    counts: dict[tuple[str, Format, str], Count] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    whole: dict[tuple[bool, ImageName], int] = field(default_factory=dict)
    """Regions of the images found whole, with or without the detector's classes; an image of many
    tasks is read once."""


def check(root: Path, progress: Progress = lambda what, done, total: None) -> Checked:
    """Reads all that is found below `root` of the tasks' files, in bounded memory but for the names
    of the images. Raises DataError if nothing is found."""
    look = _Look(root, progress)
    cells = [(*cell, options) for cell in LAYOUTS for options in _options(root, *cell)]
    if not cells:
        folders = ", ".join(sorted({form for _, form in LAYOUTS}))
        raise DataError(f"{root}: holds no published data; it belongs in its folders {folders}")
    for task, form, options in cells:
        files = files_of(task, form, options)
        missing = [root / path for path in files if not (root / path).exists()]
        others = f"but other files of {task} ({form}) are there"
        look.findings.extend(f"{path}: no such file, {others}; complete it" for path in missing)
        if not missing:
            _cell(look, task, form, layout(task, form, options))
    findings = tuple(dict.fromkeys(look.findings))
    return Checked(counts=tuple(look.counts.values()), findings=findings)


def _options(root: Path, task: str, form: Format) -> Iterator[Mapping[str, Scalar]]:
    """Options under which a file of examples of the task is there."""
    choices: list[Mapping[str, Scalar]] = [{}]
    if task == "retrieval":
        choices = [{"split": "val"}, {"split": "test"}]
    elif task == "pretraining":
        choices = [{"corpora": corpus} for corpus in CORPORA]
    held_out = [layout(task, form, options).held_out for options in choices]
    there = [any((root / part.texts).exists() for part in parts) for parts in held_out]
    if not any(there):  # half a task is a finding, not an absence
        trained = layout(task, form, choices[0]).train
        there[0] = any((root / part.texts).exists() for part in trained)
    yield from (options for options, found in zip(choices, there, strict=True) if found)


def _cell(look: _Look, task: str, form: Format, found: Layout) -> None:
    reader = reader_of(look.root, task, form, found, _PIXELS, _PIXELS)
    corpus = found.options.get("corpora", "")
    labels = {
        "train": f"train {corpus}".strip(),
        "held_out": found.options.get("split", f"held out {corpus}".strip()),
    }
    try:
        for split in SPLITS:
            if (task, form, labels[split]) not in look.counts:
                _split(look, reader, task, form, split, labels[split])
    except DataError as error:
        look.findings.append(str(error))
    finally:
        reader.close()
    if form == "uniter":
        for part in (*found.train, *found.held_out):
            look.findings.extend(_sidecars(look.root / part.texts, task, look.progress))
    if form == "lxmert" and found.answers:
        look.findings.extend(_label_files(look.root / found.answers))


def _split(
    look: _Look, reader: Reader, task: str, form: Format, split: SplitName, label: str
) -> None:
    """Adds a count, and a finding for each damaged image; the first damaged example ends it."""
    what = f"{task} ({form}), {label}"
    names: dict[ImageName, None] = {}
    examples = longest = 0
    for examples, record in enumerate(reader.records(split), 1):
        longest = max(longest, *map(len, record.texts))
        names.update(dict.fromkeys(record.images))
        if examples % _TELL_EVERY == 0:
            look.progress(f"{what}: examples", examples, None)
    classes = task == "pretraining"
    wanted = {name: None for name in names if (classes, name) not in look.whole}
    jobs = (
        (name, partial(_outcome, look.root, name, decode))
        for name, decode in reader.images(split, wanted)
    )
    missing = dict(wanted)
    damaged = 0
    for done, (name, outcome) in enumerate(decoded(jobs), 1):
        del missing[name]
        if isinstance(outcome, int):
            look.whole[classes, name] = outcome
        elif (damaged := damaged + 1) <= _MOST_FINDINGS:
            look.findings.append(outcome)
        if done % _TELL_EVERY == 0:
            look.progress(f"{what}: images", done, len(wanted))
    for name in list(missing)[:_MOST_FINDINGS]:
        where = f"{look.root / str(name[0])}: holds no image {' '.join(map(str, name[1:]))}"
        look.findings.append(f"{where}, which {what} names; complete the data")
    regions = [look.whole.get((classes, name), 0) for name in names]
    look.counts[task, form, label] = Count(
        task=task,
        format=form,
        split=label,
        examples=examples,
        images=len(names),
        longest_text=longest,
        longest_image=max(regions, default=0),
    )


def _outcome(root: Path, name: ImageName, decode: Decode) -> int | str:
    """Regions of an image, 0 for pixels; or what is wrong with it."""
    try:
        image = decode()
    except DataError as error:
        return str(error)
    if "pixels" in image:
        return 0
    boxes, features = image["boxes"], image["features"]
    wrong = ""
    if not len(boxes):
        wrong = "has no regions"
    elif not np.isfinite(features).all() or not np.isfinite(boxes).all():
        wrong = "has features or boxes that are no numbers"
    elif boxes[:, :6].min() < -_OUTSIDE or boxes[:, :6].max() > 1 + _OUTSIDE:
        least, most = boxes[:, :4].min(), boxes[:, :4].max()
        wrong = f"has a box from {least:.3g} to {most:.3g} of its image's side"
    elif (boxes[:, 2:4] < boxes[:, :2] - _OUTSIDE).any():
        wrong = "has a box whose second corner comes first"
    file = root / str(name[0])
    return f"{file}: {' '.join(map(str, name[1:]))} {wrong}; {_CURE}" if wrong else len(boxes)


def _sidecars(folder: Path, task: str, progress: Progress) -> Iterator[str]:
    """Do the JSON files beside a text database say the same as its records? The first that does
    not is told."""
    try:
        db = TextDb(folder)
    except DataError:
        return  # told already
    told = "txt2img.json"
    try:
        for done, (key, length) in enumerate(db.lengths(), 1):
            found = len(db.read(key)["input_ids"])
            if task != "vcr" and found != length:
                what = f"says {key} has {length} tokens, its record has {found}"
                yield f"{folder / 'id2len.json'}: {what}; {_CURE}"
                break
            if done % _TELL_EVERY == 0:
                progress(f"{folder.name}: id2len.json", done, None)
        for key, name in read_pairs(folder / told, _CURE) if task != "refcoco" else ():
            if db.read(key)["img_fname"] != name:
                yield f"{folder / told}: names another image for {key} than its record; {_CURE}"
                break
    except DataError as error:
        yield str(error)
    except KeyError:
        return  # a record without the field is told already
    finally:
        db.close()


def _label_files(file: Path) -> Iterator[str]:
    other = file.with_name("trainval_label2ans.json")
    try:
        if list(read_answers(file)) != read_json(other, list, _CURE):
            yield f"{other}: does not list the answers of {file.name} in their order; {_CURE}"
    except DataError as error:
        yield str(error)
