"""Naming data by its content, so that a trial's identity does not depend on a path."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainables.errors import DataError


def fingerprint(path: Path) -> str:
    """64 hex digits that change with the content of a file or folder, and with nothing else.

    A file is its bytes; its own name does not count. A folder is the relative POSIX names and the
    bytes of all files in it; hidden files (`.DS_Store`) and byte code do not count.
    Raises DataError if there is nothing at `path`, or something in it cannot be read.
    """
    try:
        if path.is_file():
            return _digest(path)
        if path.is_dir():
            return _folder(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the data") from error
    raise DataError(f"{path}: no such file or folder; check the path given for the data or weights")


def _folder(path: Path) -> str:
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    whole = hashlib.sha256()
    for name in names:
        parts = name.split("/")
        if any(part.startswith(".") or part == "__pycache__" for part in parts):
            continue
        whole.update(f"{name}\0{_digest(path / name)}\n".encode())
    return whole.hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
