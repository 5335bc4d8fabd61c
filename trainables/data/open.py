"""Open a task's examples from the published files, through the machine's cache."""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import lru_cache
from pathlib import Path

from trainables.data.cache.build import open_cached
from trainables.data.formats import FORMATS, resolve_layout
from trainables.data.reference import DataReference
from trainables.data.schema.examples import Data
from trainables.data.schema.layouts import Layout
from trainables.data.schema.records import Reader
from trainables.data.schema.validate import CheckedReader
from trainables.spec import TaskSpec


def open_data(
    source: DataReference,
    cache: Path,
    task: TaskSpec,
    file_format: str,
    *,
    image_size: int,
    patch_size: int,
    region_features: str = "float16",
) -> Data:
    """Open a task's data, once per process and version of the reader.

    The files of `source` are only read if the cache does not have them yet; they must then have the
    fingerprint `task.data`. `image_size` and `patch_size` are in pixels, 0 for a model that takes
    regions; `region_features` is the number format of those (see `trainables.spec.Recipe`). Raises
    DataError if the data is missing, damaged or not what was planned.
    """
    reader_source = FORMATS.source_of(file_format)
    return _open_once(
        source, cache, task, file_format, image_size, patch_size, region_features, reader_source
    )


@lru_cache(maxsize=32)
def _open_once(
    source: DataReference,
    cache: Path,
    task: TaskSpec,
    file_format: str,
    image_size: int,
    patch_size: int,
    region_features: str,
    reader_source: str,
) -> Data:
    return load_data(
        source,
        cache,
        task,
        file_format,
        image_size=image_size,
        patch_size=patch_size,
        region_features=region_features,
    )


def load_data(
    source: DataReference,
    cache: Path,
    task: TaskSpec,
    file_format: str,
    *,
    image_size: int,
    patch_size: int,
    region_features: str = "float16",
) -> Data:
    """Do what `open_data` does, even if this process has the data open."""
    layout = resolve_layout(task.name, file_format, dict(task.options))
    identity = [task.data, task.name, file_format, layout.options, image_size, patch_size]
    if region_features != "float16" and FORMATS[file_format].modality == "regions":
        identity.append(region_features)
    if reader_source := FORMATS.source_of(file_format):
        identity.append(reader_source)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def reader() -> Reader:
        source.check_unchanged(task.data, "data", layout.files())
        root = source.local_path(cache, layout.files())
        return make_reader(root, file_format, layout, image_size, patch_size, region_features)

    return open_cached(cache / f"{task.name}-{file_format}-{digest[:32]}", str(source), reader)


def make_reader(
    root: Path,
    file_format: str,
    layout: Layout,
    image_size: int,
    patch_size: int,
    region_features: str = "float32",
) -> Reader:
    """Return a reader of the published files below `root` that checks every record; for the sizes
    and `region_features` see `open_data`."""
    entry = FORMATS[file_format]
    reader: Reader = importlib.import_module(entry.module).open_reader(
        root, layout, image_size=image_size, patch_size=patch_size
    )
    return CheckedReader(reader, root, layout, entry.modality, region_features)
