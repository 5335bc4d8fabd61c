"""Build and open the cache: examples and images in Arrow files, memory-mapped by every process.

A cache folder holds the examples and the images of `train` and `held_out`, and `manifest.json`,
written last, with the sizes of all files. A process that finds a complete folder opens it;
otherwise it builds the folder under a lock, in a temporary folder beside it. The bytes depend only
on the data.
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
from trainables.data.schema.examples import Data, VocabularyInfo
from trainables.data.schema.records import SPLITS, Reader
from trainables.errors import DataError

VERSION = 3
"""Raise it when the format of the cache files changes."""

_MANIFEST = "manifest.json"


def open_cached(folder: Path, source: str, reader: Callable[[], Reader]) -> Data:
    """Open the data in `folder`; build it from `reader` if it is missing, incomplete or of another
    version.

    Raises DataError if the published files of `source` are damaged, or `folder` cannot be
    written.
    """
    data = _try_open(folder)
    if data is not None:
        return data
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            data = _try_open(folder)  # another process may have built it
            if data is None:
                _build(folder, source, reader())
                data = _try_open(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error}); choose another cache") from error
    assert data is not None, f"{folder} was built and cannot be opened"
    return data


def _build(folder: Path, source: str, reader: Reader) -> None:
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


def _try_open(folder: Path) -> Data | None:
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
            vocabulary=VocabularyInfo(**manifest["vocabulary"]),
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
