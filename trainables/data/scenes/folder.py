"""A data folder of scenes: written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp

from trainables.data.formats.json_stream import read_json, write_json
from trainables.data.scenes import write_lxmert as as_lxmert
from trainables.data.scenes import write_uniter as as_uniter
from trainables.data.scenes import write_vilt as as_vilt
from trainables.data.scenes.dataset import compose
from trainables.errors import DataError

FEWEST = 50
"""Training scenes: enough for one in every file."""
FORMAT = 1
"""Raised by hand when the same parameters come to give other files."""
_MARK = "scenes.json"
_CURE = "remove it, or give another folder"


def write(
    folder: Path,
    *,
    images: int,
    difficulty: float,
    seed: int,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> bool:
    """Writes `uniter`, `lxmert` and `vilt` with all files of all tasks; whether there was anything
    to do: a folder of the same parameters is left as it is.

    `images` training scenes and a fifth as many held-out ones serve all tasks; `difficulty` is from
    0 to 1. The same parameters give the same bytes. `progress` takes the file, how many scenes were
    written, and of how many. Raises DataError if the folder holds anything else or cannot be
    written.
    """
    if images < FEWEST or not 0 <= difficulty <= 1:
        allowed = f"images from {FEWEST}, difficulty from 0 to 1"
        raise DataError(f"{folder}: images = {images}, difficulty = {difficulty:g}; give {allowed}")
    mark = {"format": FORMAT, "images": images, "difficulty": difficulty, "seed": seed}
    try:
        if _there(folder, mark):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        unfinished.chmod(0o755)
        try:
            _fill(unfinished, images, difficulty, seed, progress)
            write_json(unfinished / _MARK, mark)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error}); give another folder") from error
    return True


def _there(folder: Path, mark: Mapping[str, object]) -> bool:
    """Whether it is written already; DataError if something else is."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / _MARK).is_file():
        raise DataError(f"{folder}: holds something else than scenes; {_CURE}")
    found = read_json(folder / _MARK, dict, _CURE)
    if found != mark:
        other = ", ".join(f"{name} {value}" for name, value in found.items())
        raise DataError(f"{folder}: holds other scenes ({other}); {_CURE}")
    return True


def _fill(
    folder: Path,
    images: int,
    difficulty: float,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    book = compose(images, difficulty, seed)
    jobs = [*as_uniter.jobs(book), *as_lxmert.jobs(book), *as_vilt.jobs(book)]
    done, total = 0, sum(job.size for job in jobs)
    for job in jobs:
        progress(job.path, done, total)
        job.write(folder / job.path)
        done += job.size
    progress("", done, total)
