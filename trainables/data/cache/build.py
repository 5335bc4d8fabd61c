"""Examples and images as Arrow files, written once per machine in batches and mapped into memory.

A folder holds `train` and `held_out`, each as examples and as images, and `manifest.json`, written
last, with the sizes of all. Whoever finds it whole takes it; whoever does not builds it under a
lock, beside its final place. The bytes depend on the data alone, not on who built it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from trainables.data.cache.read import read_split
from trainables.data.cache.write import write_examples, write_images
from trainables.data.schema.examples import Data, Vocabulary
from trainables.data.schema.records import SPLITS, Reader
from trainables.errors import DataError

VERSION = 1
"""Raised by hand when the files below change their form."""

_MANIFEST = "manifest.json"


def cached(folder: Path, source: Path, reader: Callable[[], Reader]) -> Data:
    """The data in `folder`, built by `reader` where it is not there, not whole or not ours.

    Raises DataError if the published files below `source` are damaged, or `folder` cannot be
    written.
    """
    found = _opened(folder)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            found = _opened(folder)
            if found is None:
                _build(folder, source, reader())
                found = _opened(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error}); give another cache") from error
    assert found is not None, f"{folder} was built and cannot be opened"
    return found


def _build(folder: Path, source: Path, reader: Reader) -> None:
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    for old in (unfinished, folder):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    unfinished.mkdir()
    try:
        manifest = {
            "version": VERSION,
            "vocabulary": asdict(reader.vocabulary()),
            "answers": reader.answers(),
        }
        for split in SPLITS:
            numbers = write_examples(unfinished, split, reader.records(split))
            if not numbers:
                raise DataError(f"{source}: holds no {split} example; complete the data")
            images = reader.images(split, numbers)
            write_images(unfinished, split, numbers, images, source)
        sizes = {file.name: file.stat().st_size for file in sorted(unfinished.iterdir())}
        (unfinished / _MANIFEST).write_text(json.dumps({**manifest, "files": sizes}))
        unfinished.rename(folder)
    finally:
        reader.close()
        shutil.rmtree(unfinished, ignore_errors=True)


def _opened(folder: Path) -> Data | None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        sizes = manifest["files"]
        if manifest["version"] != VERSION:
            return None
        if any((folder / name).stat().st_size != size for name, size in sizes.items()):
            return None
        return Data(
            train=read_split(folder, "train"),
            held_out=read_split(folder, "held_out"),
            answers=tuple(manifest["answers"]),
            vocabulary=Vocabulary(**manifest["vocabulary"]),
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
