"""Fingerprints of data by content, so that a trial's identity does not depend on a path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from trainables.errors import DataError


def fingerprint(path: Path, patterns: Sequence[str] = ()) -> str:
    """Return 64 hex digits that depend only on the content of a file or folder.

    For a file, its bytes count; its own name does not. For a folder, the relative POSIX names and
    the bytes of all its files count, or of those that match `patterns` (globs; a folder that
    matches counts with all its files). Hidden files (`.DS_Store`), lock files and byte code do not
    count. Raises DataError if `path` does not exist, a pattern matches nothing, or a file cannot be
    read.
    """
    try:
        if path.is_file():
            return _digest(path)
        if path.is_dir():
            return _folder_digest(path, files_to_hash(path, patterns))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the data") from error
    raise DataError(f"{path}: no such file or folder; check the path given for the data or weights")


def files_to_hash(folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """Return the files of `folder` that its fingerprint covers, sorted by name; see
    `fingerprint`."""
    files: set[Path] = set()
    for pattern in patterns or ("*",):
        matches = [file for match in folder.glob(pattern) for file in _below(match)]
        if patterns and not matches:
            raise DataError(
                f"{folder}: has no file that matches {pattern}; complete the data"
                " (`sweepstakes data check` lists what is expected)"
            )
        files.update(matches)
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


@lru_cache
def check_unchanged(path: Path, expected: str, what: str, patterns: Sequence[str] = ()) -> None:
    """Raise DataError unless the content has the fingerprint that the trial was planned with.
    Each path is checked once per process."""
    actual = fingerprint(path, patterns)
    if actual != expected:
        raise DataError(
            f"{path}: this {what} has the fingerprint {actual[:12]}, the trial was planned for "
            f"{expected[:12]}; restore the file or plan the sweep again"
        )


def _below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (file for file in path.rglob("*") if file.is_file())


def _folder_digest(path: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix()
        parts = name.split("/")
        if any(p.startswith(".") or p in ("__pycache__", "lock.mdb") for p in parts):
            continue
        digest.update(f"{name}\0{_digest(file)}\n".encode())
    return digest.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
