"""Open a task's examples from the published files, through the machine's cache."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from trainables.data.cache.build import open_cached
from trainables.data.fingerprint import check_unchanged
from trainables.data.formats.lxmert.reader import LxmertReader
from trainables.data.formats.uniter.reader import UniterReader
from trainables.data.formats.vilt.reader import ViltReader
from trainables.data.schema.examples import Data
from trainables.data.schema.layouts import Layout, resolve_layout, task_files
from trainables.data.schema.records import Reader
from trainables.models import Format
from trainables.spec import TaskSpec


@lru_cache(maxsize=32)
def open_data(
    root: Path,
    cache: Path,
    task: TaskSpec,
    file_format: Format,
    *,
    image_size: int,
    patch_size: int,
) -> Data:
    """Open a task's data, once per process.

    The files below `root` are only read if the cache does not have them yet; they must then have
    the fingerprint `task.data`. `image_size` and `patch_size` are in pixels, 0 for a model that
    takes regions. Raises DataError if the data is missing, damaged or not what was planned.
    """
    options = dict(task.options)
    layout = resolve_layout(task.name, file_format, options)
    identity = [task.data, task.name, file_format, layout.options, image_size, patch_size]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def reader() -> Reader:
        check_unchanged(root, task.data, "data", task_files(task.name, file_format, options))
        return make_reader(root, task.name, file_format, layout, image_size, patch_size)

    return open_cached(cache / f"{task.name}-{file_format}-{digest[:32]}", root, reader)


def make_reader(
    root: Path, task: str, file_format: Format, layout: Layout, image_size: int, patch_size: int
) -> Reader:
    """Return a reader of the published files; for the sizes see `open_data`."""
    if file_format == "uniter":
        return UniterReader(root, task, layout)
    if file_format == "lxmert":
        return LxmertReader(root, task, layout)
    return ViltReader(root, task, layout, image_size, patch_size)
