"""Check that the published files of a data folder are intact and consistent with each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from trainables.data.cache.write import decode_in_threads
from trainables.data.formats import FORMATS
from trainables.data.open import make_reader
from trainables.data.schema.layouts import Layout
from trainables.data.schema.records import SPLITS, Decode, ImageKey, Reader, SplitName
from trainables.errors import DataError

CheckProgress: TypeAlias = Callable[[str, int, int | None], None]
"""Receives what is being read, the number of examples or images read so far, and their total, which
is None if it is unknown."""

_IMAGE_SIZE = 32
"""Side in pixels. Images are decoded in full and then resized to it, which costs almost nothing."""
_REPORT_EVERY = 256
"""Examples or images between two reports of progress."""
_MAX_FINDINGS = 5
"""Maximum number of damaged, and of missing, images of a split that are listed: often all of them
have one cause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCount:
    task: str
    format: str
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
    counts: dict[tuple[str, str, str], SplitCount] = field(default_factory=dict)
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
    tasks = dict.fromkeys(task for entry in FORMATS.values() for task in entry.layouts)
    choices = [
        (task, name, layout, labels)
        for task in tasks
        for name, entry in FORMATS.items()
        if task in entry.layouts
        for layout, labels in _layouts_in(root, task, entry.layouts[task])
    ]
    if not choices:
        folders = ", ".join(sorted(FORMATS))
        raise DataError(f"{root}: holds no published data; it belongs in its folders {folders}")
    for task, name, layout, labels in choices:
        missing = [root / path for path in layout.files() if not (root / path).exists()]
        others = f"but other files of {task} ({name}) exist"
        check.findings.extend(f"{path}: no such file, {others}; complete it" for path in missing)
        if not missing:
            _check_task(check, task, name, layout, labels)
    findings = tuple(dict.fromkeys(check.findings))
    return CheckResult(counts=tuple(check.counts.values()), findings=findings)


_Labels: TypeAlias = Mapping[SplitName, str]
"""What the splits of a task are called in the result."""


def _layouts_in(root: Path, task: str, layout: Layout) -> list[tuple[Layout, _Labels]]:
    """Return the variants of a task's layout for which `root` has a file of examples."""
    variants: list[tuple[Layout, _Labels]] = [
        (layout.resolve(task, options), {"train": train, "held_out": held_out})
        for options, train, held_out in layout.variants()
    ]
    found = [
        each
        for each in variants
        if any((root / files.texts).exists() for files in each[0].held_out)
    ]
    if found:
        return found
    # Training files without held-out ones are a finding, not an absent task.
    first, _ = variants[0]
    return variants[:1] if any((root / files.texts).exists() for files in first.train) else []


def _check_task(
    check: _FolderCheck, task: str, file_format: str, layout: Layout, labels: _Labels
) -> None:
    size = _IMAGE_SIZE if FORMATS[file_format].modality == "pixels" else 0
    reader = make_reader(check.root, file_format, layout, size, size)
    try:
        for split in SPLITS:
            if (task, file_format, labels[split]) not in check.counts:
                _check_split(check, reader, task, file_format, layout, split, labels[split])
    except DataError as error:
        check.findings.append(str(error))

    def progress(what: str, done: int) -> None:
        if done % _REPORT_EVERY == 0:
            check.progress(what, done, None)

    try:
        check.findings.extend(reader.findings(progress))
    finally:
        reader.close()


def _check_split(
    check: _FolderCheck,
    reader: Reader,
    task: str,
    file_format: str,
    layout: Layout,
    split: SplitName,
    label: str,
) -> None:
    """Add a count, and a finding for each damaged image. Raises DataError at the first damaged
    example."""
    what = f"{task} ({file_format}), {label}"
    keys: dict[ImageKey, None] = {}
    examples = longest = 0
    for examples, record in enumerate(reader.records(split), 1):
        longest = max([longest, *map(len, record.texts)])
        keys.update(dict.fromkeys(record.images))
        if examples % _REPORT_EVERY == 0:
            check.progress(f"{what}: examples", examples, None)
    classes = layout.classes
    wanted = {key: None for key in keys if (classes, key) not in check.regions}
    jobs = ((key, partial(_check_image, decode)) for key, decode in reader.images(split, wanted))
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


def _check_image(decode: Decode) -> int | str:
    """Return the number of regions of an image (0 for pixels), or a finding."""
    try:
        return len(decode().get("boxes", ()))
    except DataError as error:
        return str(error)
