"""Naming data by its content, so that a trial's identity does not depend on a path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from trainables.errors import DataError


def fingerprint(path: Path, patterns: Sequence[str] = ()) -> str:
    """64 hex digits that change with the content of a file or folder, and with nothing else.

    A file is its bytes; its own name does not count. A folder is the relative POSIX names and the
    bytes of all files in it, or of those that match `patterns` (globs; a folder that matches counts
    whole); hidden files (`.DS_Store`), lock files and byte code do not count.
    Raises DataError if there is nothing at `path`, a pattern matches nothing, or something cannot
    be read.
    """
    try:
        if path.is_file():
            return _digest(path)
        if path.is_dir():
            return _folder(path, files(path, patterns))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the data") from error
    raise DataError(f"{path}: no such file or folder; check the path given for the data or weights")


def files(folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """The files of `folder` that count for its fingerprint, by name; see `fingerprint`."""
    found: set[Path] = set()
    for pattern in patterns or ("*",):
        matches = [file for match in folder.glob(pattern) for file in _below(match)]
        if patterns and not matches:
            raise DataError(
                f"{folder}: holds nothing like {pattern}; complete the data"
                " (`sweepstakes data check` says what is expected)"
            )
        found.update(matches)
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


@lru_cache
def check(path: Path, planned: str, what: str, patterns: Sequence[str] = ()) -> None:
    """DataError unless the content is what the trial was planned for; asked once per process."""
    found = fingerprint(path, patterns)
    if found != planned:
        raise DataError(
            f"{path}: this {what} has the fingerprint {found[:12]}, the trial was planned for "
            f"{planned[:12]}; restore the file or plan the sweep again"
        )


def _below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (file for file in path.rglob("*") if file.is_file())


def _folder(path: Path, counted: list[Path]) -> str:
    whole = hashlib.sha256()
    for file in counted:
        name = file.relative_to(path).as_posix()
        parts = name.split("/")
        if any(p.startswith(".") or p in ("__pycache__", "lock.mdb") for p in parts):
            continue
        whole.update(f"{name}\0{_digest(file)}\n".encode())
    return whole.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
