"""Write a data folder of scenes, completely or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp

from trainables.data.formats.json_stream import read_json, write_json
from trainables.data.scenes import write_lxmert as write_lxmert
from trainables.data.scenes import write_uniter as write_uniter
from trainables.data.scenes import write_vilt as write_vilt
from trainables.data.scenes.dataset import generate
from trainables.errors import DataError

MIN_IMAGES = 50
"""Minimum number of training scenes; enough for at least one in each file."""
FORMAT = 1
"""Raise it when a change to the code changes the files that the same parameters give."""
_PARAMETERS_FILE = "scenes.json"
_ADVICE = "remove it, or choose another folder"


def write_scenes(
    folder: Path,
    *,
    images: int,
    difficulty: float,
    seed: int,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> bool:
    """Write `uniter`, `lxmert` and `vilt` with all files of all tasks.

    Return False, without a change, if the folder has these scenes already. All tasks share `images`
    training scenes and a fifth as many held-out scenes; `difficulty` is from 0 to 1. The same
    parameters give the same bytes. `progress` receives the current file, the number of scenes
    written, and their total. Raises DataError if the folder has other contents or cannot be
    written.
    """
    if images < MIN_IMAGES or not 0 <= difficulty <= 1:
        allowed = f"images from {MIN_IMAGES}, difficulty from 0 to 1"
        raise DataError(f"{folder}: images = {images}, difficulty = {difficulty:g}; give {allowed}")
    parameters = {"format": FORMAT, "images": images, "difficulty": difficulty, "seed": seed}
    try:
        if _is_written(folder, parameters):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        unfinished.chmod(0o755)
        try:
            _write_all(unfinished, images, difficulty, seed, progress)
            write_json(unfinished / _PARAMETERS_FILE, parameters)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error}); choose another folder") from error
    return True


def _is_written(folder: Path, parameters: Mapping[str, object]) -> bool:
    """Return whether the folder has these scenes. Raises DataError if it has other contents."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / _PARAMETERS_FILE).is_file():
        raise DataError(f"{folder}: holds other files than scenes; {_ADVICE}")
    existing = read_json(folder / _PARAMETERS_FILE, dict, _ADVICE)
    if existing != parameters:
        differing = ", ".join(f"{name} {value}" for name, value in existing.items())
        raise DataError(f"{folder}: holds other scenes ({differing}); {_ADVICE}")
    return True


def _write_all(
    folder: Path,
    images: int,
    difficulty: float,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> None:
    dataset = generate(images, difficulty, seed)
    jobs = [*write_uniter.jobs(dataset), *write_lxmert.jobs(dataset), *write_vilt.jobs(dataset)]
    done, total = 0, sum(job.size for job in jobs)
    for job in jobs:
        progress(job.path, done, total)
        job.write(folder / job.path)
        done += job.size
    progress("", done, total)
