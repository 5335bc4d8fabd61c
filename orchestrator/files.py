"""Files that a command writes: each is replaced in one step or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import InputError


def make_folder(folder: Path) -> None:
    """Make a report's folder; InputError unless files can be made in it."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def replace(path: Path, data: bytes) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one, whole.
    InputError where it cannot be written."""
    with _writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(scratch).chmod(0o644)  # mkstemp makes 0600, and a report is for others to read
            Path(scratch).replace(path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    return path


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: no report can be written here ({error.strerror}); what a sweep gave is in"
            " its store, and `sweepstakes report SWEEP --out FOLDER` writes it elsewhere"
        ) from error
