"""Writing output files: each is replaced in one step or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import NotWritable


def make_folder(folder: Path) -> None:
    """Create a folder and check that files can be created in it.

    Raises:
        NotWritable: the folder or a file in it cannot be created.
    """
    with _checked(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def write_atomic(path: Path, data: bytes) -> Path:
    """Write to a temporary file in the same folder, then rename it: a reader sees the old content
    or the new one, never a part.

    Raises:
        NotWritable: the file cannot be written.
    """
    with _checked(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o644)  # mkstemp sets 0600, but others should read the file too
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return path


@contextmanager
def replace_files_in(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved into `folder` at the end: all or none.

    `folder` is created if needed. Each file replaces an existing one of the same name atomically;
    a symbolic link is replaced and not followed.

    Raises:
        NotWritable: the folder cannot be created or written.
    """
    with _checked(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
            yield Path(scratch)
            for file in sorted(Path(scratch).iterdir()):
                os.replace(file, folder / file.name)


@contextmanager
def _checked(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotWritable(
            f"{folder}: no file can be written here ({error.strerror}); use a folder on a disk with"
            " free space that this user may write to"
        ) from error
