"""The examples of a task, out of the published files, by way of the machine's cache."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from trainables.data.cache.build import cached
from trainables.data.fingerprint import check
from trainables.data.formats.lxmert.reader import LxmertReader
from trainables.data.formats.uniter.reader import UniterReader
from trainables.data.formats.vilt.reader import ViltReader
from trainables.data.schema.examples import Data
from trainables.data.schema.layouts import Layout, files_of, layout
from trainables.data.schema.records import Reader
from trainables.models import Format
from trainables.spec import TaskSpec


@lru_cache(maxsize=32)
def open_data(
    root: Path, cache: Path, task: TaskSpec, form: Format, *, image_size: int, patch_size: int
) -> Data:
    """Opened once per process; the files below `root` are read only where no process of this
    machine has done so before, and then they must have the fingerprint `task.data`.

    `image_size` and `patch_size` are in pixels, 0 for a model that sees regions. Raises DataError
    for data that is missing, damaged or other than planned.
    """
    options = dict(task.options)
    found = layout(task.name, form, options)
    shapes = [task.data, task.name, form, found.options, image_size, patch_size]
    digest = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()

    def reader() -> Reader:
        check(root, task.data, "data", files_of(task.name, form, options))
        return reader_of(root, task.name, form, found, image_size, patch_size)

    return cached(cache / f"{task.name}-{form}-{digest[:32]}", root, reader)


def reader_of(
    root: Path, task: str, form: Format, layout: Layout, image_size: int, patch_size: int
) -> Reader:
    """Reads the published files; the sizes are those of `open_data`."""
    if form == "uniter":
        return UniterReader(root, task, layout)
    if form == "lxmert":
        return LxmertReader(root, task, layout)
    return ViltReader(root, task, layout, image_size, patch_size)
