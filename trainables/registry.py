"""Registries: tables by name that packages and files from outside can extend.

A built-in entry is a line in its table. A package adds entries as entry points of the table's
group, such as `sweepstakes.tasks`; an entry point names the entry object. A single file adds the
entry that it binds to the table's attribute, such as `TASK` (see `user_modules`). The source of an
entry from outside has a hash, which enters the keys of the trials that use it, so that results of
changed code are never taken for those of the old.

This module imports nothing heavy, because planning reads the tables too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from trainables.errors import PluginError, describe_error, suggest

Entry = TypeVar("Entry")

REGISTRIES: list[Registry[Any]] = []
"""All tables, in the order of their creation."""


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A mapping from name to entry: the built-in entries, then those from outside.

    An entry from outside is loaded when it is first looked up, so that a broken package only
    affects those who use it. Raises PluginError where an entry cannot be loaded, or a package has
    one of a built-in entry's name.
    """

    def __init__(
        self, kind: type[Entry], *, group: str, attribute: str, builtin: Mapping[str, Entry]
    ) -> None:
        """`kind` is the class of the entries; `group` that of entry points, as in
        `sweepstakes.tasks`; `attribute` the name that a file binds its entry to."""
        self._kind = kind
        self.group = group
        self.attribute = attribute
        self._builtin = dict(builtin)
        self._sources: dict[str, str] = {}
        self._added: dict[str, Entry] = {}
        self._files: set[str] = set()
        """Names of the entries that files have added."""
        REGISTRIES.append(self)

    def __getitem__(self, name: str) -> Entry:
        if name in self._builtin:
            self._check_builtin(name)
            return self._builtin[name]
        if name not in self._added:
            point = self._entry_points()[name]
            self._added[name] = self._checked(_load(point), f"entry point {point.value!r}")
        return self._added[name]

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys([*self._builtin, *self._entry_points(), *self._added])

    def __len__(self) -> int:
        return sum(1 for _ in self)  # `[*self]` would ask for the length first

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._added or name in self._entry_points()

    def loadable(self) -> dict[str, Entry]:
        """Return the entries that can be loaded, for messages that list what there is: a broken
        package must not hide what the message is about."""
        entries = {}
        for name in self:
            with suppress(PluginError):
                entries[name] = self[name]
        return entries

    def source_of(self, name: str) -> str:
        """Return the hash of an entry's source (64 hex digits); empty for a built-in entry."""
        if name in self._builtin:
            self._check_builtin(name)
            return ""
        if name not in self._sources:
            self._sources[name] = package_sha256(self._entry_points()[name].module)
        return self._sources[name]

    def add(self, name: str, entry: object, source: str) -> None:
        """Add an entry from a file whose source has the hash `source`; it replaces an earlier one
        of that name. Raises PluginError for the name of an entry that no file has added."""
        if name in self._builtin or name in self._entry_points():
            raise PluginError(f"{name}.py: {name!r} already exists; rename the file")
        self._added[name] = self._checked(entry, f"{name}.py: {self.attribute}")
        self._sources[name] = source
        self._files.add(name)

    def remove_files(self) -> None:
        """Remove the entries that files have added."""
        for name in self._files:
            del self._added[name], self._sources[name]
        self._files.clear()

    def has_installed(self, entry: object) -> bool:
        """Return whether `entry` is built in, or that of an installed package which has been
        imported."""
        installed: list[object] = [*self._builtin.values()]
        for point in self._entry_points().values():
            if point.module in sys.modules:
                with suppress(PluginError):
                    installed.append(_load(point))
        return any(entry is each for each in installed)

    def require(self, name: str, source: str) -> None:
        """Raise PluginError unless the file `name`.py with the hash `source` has added an entry to
        this table."""
        if self._sources.get(name) != source:
            raise PluginError(f"{name}.py: does not bind `{self.attribute}`; bind its entry to it")

    def check_source(self, name: str, source: str) -> None:
        """Raise PluginError unless the entry's source on this machine has the hash `source`."""
        if name not in self or self.source_of(name) != source:
            found = "another version" if name in self else "none"
            raise PluginError(
                f"{self.group} {name!r}: the trial was planned with the source {source[:12]}, this"
                f" machine has {found}; install the same version on all machines"
            )

    def _check_builtin(self, name: str) -> None:
        """Raise PluginError if a package has an entry of a built-in one's name. Its users would not
        notice that it is never used."""
        if name in self._entry_points():
            point = self._entry_points()[name]
            raise PluginError(
                f"entry point {name} = {point.value!r} of {self.group}: {name!r} is the name of a "
                "built-in entry; rename the entry point, or uninstall its package"
            )

    def _entry_points(self) -> dict[str, EntryPoint]:
        return _entry_points(self.group)

    def _checked(self, entry: object, what: str) -> Entry:
        if not isinstance(entry, self._kind):
            raise PluginError(
                f"{what}: is a {type(entry).__name__}; give a {self._kind.__module__}."
                f"{self._kind.__name__}"
            )
        for name, hint in get_type_hints(self._kind).items():
            value = getattr(entry, name, None)
            if get_origin(hint) is Literal and value not in get_args(hint):
                cure = suggest(str(value), get_args(hint))
                raise PluginError(f"{what}: {name} = {value!r} is not known; {cure}")
        return entry


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in _installed().select(group=group)}


@cache
def _installed() -> Any:  # its type depends on Python's version
    """Read the entry points of all packages, which takes tens of milliseconds."""
    return entry_points()


def _load(point: EntryPoint) -> object:
    try:
        return point.load()
    except Exception as error:  # whatever the package raises while it is imported
        raise PluginError(
            f"entry point {point.name} = {point.value!r} of {point.group} cannot be loaded"
            f" ({describe_error(error)}); repair or uninstall its package"
        ) from error


def package_sha256(module: str) -> str:
    """Return the SHA-256 of the Python source of the top-level package that `module` is in.

    Raises PluginError if the package has no source files.
    """
    package = module.partition(".")[0]
    found = importlib.util.find_spec(package)
    folders = list(found.submodule_search_locations or ()) if found else []
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    if not files and found and found.origin and found.origin.endswith(".py"):
        files = [Path(found.origin)]
    if not files:
        raise PluginError(f"package {package}: has no source files to hash; install it from source")
    root = files[0].parent if not folders else Path(folders[0])
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        digest.update(f"{name}\0{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
