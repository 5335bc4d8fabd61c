"""References to a task's data: a path, or a revision of a remote data set.

A reference knows the fingerprint of its content, which is part of the keys of the trials. That of a
path covers the bytes of the files that the task reads. A remote reference, `SCHEME://NAME@REVISION`,
names content that never changes, so it is its own fingerprint and planning reads nothing. A package
or a file adds a scheme to `DATA_SCHEMES` (see `trainables.registry`). This module imports nothing
heavy, because planning uses it too.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from trainables.data import fingerprint
from trainables.errors import DataError
from trainables.registry import Registry

HashFiles: TypeAlias = Callable[[Path, tuple[str, ...]], str]
"""Returns the fingerprint of a path, as `trainables.data.fingerprint.fingerprint` does."""

_REMOTE = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataScheme:
    """How the data that a `SCHEME://NAME@REVISION` names are fetched."""

    module: str
    """The module that fetches data; it is imported on a machine that reads them. It has
    `fetch(name, revision, folder, files)`, which adds those of `files` (globs; all, if there are
    none) that `folder` does not have yet. `folder` belongs to the reference. A file must not appear
    before it is complete."""
    revision: str = ".+"
    """Regular expression of revisions whose content never changes, such as `[0-9a-f]{40}` for the
    commits of Git."""
    description: str = ""
    """One line: what NAME and REVISION are."""


DATA_SCHEMES: Registry[DataScheme] = Registry(
    DataScheme, group="sweepstakes.data_schemes", attribute="DATA_SCHEME", builtin={}
)


class DataReference(ABC):
    """Where a task's data are. `str()` gives the text that `data_reference` takes."""

    @abstractmethod
    def fingerprint(
        self, files: tuple[str, ...] = (), hash_files: HashFiles = fingerprint.fingerprint
    ) -> str:
        """Return 64 hex digits that change with the content of `files` (globs; all, if there are
        none). `hash_files` reads them, where they have to be read."""

    @abstractmethod
    def check_unchanged(self, expected: str, what: str, files: tuple[str, ...] = ()) -> None:
        """Raise DataError, in which the data are called `what`, unless they have the fingerprint
        that the trial was planned with."""

    @abstractmethod
    def local_path(self, cache: Path, files: tuple[str, ...] = ()) -> Path:
        """Return the path of the data on this machine, with at least `files`.

        Remote data are fetched into `cache` unless they are there. Raises DataError if that fails.
        """


@dataclass(frozen=True, slots=True)
class LocalData(DataReference):
    """A file or folder that every machine has under the same path."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def fingerprint(
        self, files: tuple[str, ...] = (), hash_files: HashFiles = fingerprint.fingerprint
    ) -> str:
        return hash_files(self.path.absolute(), files)

    def check_unchanged(self, expected: str, what: str, files: tuple[str, ...] = ()) -> None:
        fingerprint.check_unchanged(self.path, expected, what, files)

    def local_path(self, cache: Path, files: tuple[str, ...] = ()) -> Path:
        return self.path


@dataclass(frozen=True, slots=True)
class RemoteData(DataReference):
    """A revision of a remote data set."""

    scheme: str
    name: str
    revision: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}@{self.revision}"

    def fingerprint(
        self, files: tuple[str, ...] = (), hash_files: HashFiles = fingerprint.fingerprint
    ) -> str:
        """Return the hash of the reference and of the source of its scheme."""
        text = f"{self}\0{DATA_SCHEMES.source_of(self.scheme)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def check_unchanged(self, expected: str, what: str, files: tuple[str, ...] = ()) -> None:
        if self.fingerprint() != expected:
            raise DataError(
                f"{self}: the trial was planned for other {what} ({expected[:12]}), or with another"
                f" version of the scheme {self.scheme}; plan the sweep again"
            )

    def local_path(self, cache: Path, files: tuple[str, ...] = ()) -> Path:
        from filelock import FileLock

        folder = cache / "fetched" / f"{self.scheme}-{self.fingerprint()[:32]}"
        module = importlib.import_module(DATA_SCHEMES[self.scheme].module)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):  # one process of this machine fetches for all
                module.fetch(self.name, self.revision, folder, files)
        except OSError as error:
            raise DataError(
                f"{self}: cannot be fetched ({error}); check it and try again"
            ) from error
        return folder


def data_reference(location: str | Path | DataReference) -> DataReference:
    """Return the reference that a path or a text such as `hf://NAME@REVISION` stands for.

    Raises DataError if the scheme is unknown, or the text names no revision that it allows.
    """
    if isinstance(location, DataReference):
        return location
    remote = _REMOTE.fullmatch(location) if isinstance(location, str) else None
    if remote is None:
        return LocalData(Path(location))
    scheme, rest = remote.groups()
    if scheme not in DATA_SCHEMES:
        known = ", ".join(DATA_SCHEMES) or "none"
        raise DataError(
            f"{location}: the scheme {scheme} is not known (installed: {known}); give a path, or"
            " install the package that reads it"
        )
    name, _, revision = rest.rpartition("@")
    allowed = DATA_SCHEMES[scheme].revision
    if not name or not re.fullmatch(allowed, revision):
        raise DataError(
            f"{location}: names no revision that never changes (as `{allowed}`); give"
            f" {scheme}://NAME@REVISION"
        )
    return RemoteData(scheme, name, revision)


def is_remote(location: str) -> bool:
    """Return whether a text is a remote reference instead of a path."""
    return _REMOTE.fullmatch(location) is not None
