"""A task, a pruning method or another part of one's own, in one Python file.

The file binds an entry to the attribute of a registry: `TASK = TaskEntry(module=__name__, ...)`, or
`PRUNER = PruneMethod(module=__name__, ...)`. Its name in the registry is the file's name without
`.py`. The text of the file travels to the workers, so they need no copy of it, and its hash enters
the keys of the trials that use it.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from trainables.errors import PluginError, describe_error
from trainables.registry import REGISTRIES, Registry


@dataclass(frozen=True, slots=True)
class UserModule:
    """The source of one file."""

    name: str
    """The file's name without `.py`."""
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def module_name(self) -> str:
        """The name under which the file is imported. It contains the hash, so that two versions of
        a file can exist in one process."""
        return f"sweepstakes_file_{self.sha256[:16]}_{self.name}"


def read_user_module(path: Path) -> UserModule:
    """Read a file. Raises PluginError if it cannot be read or is no Python module's file."""
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise PluginError(f"{path}: not the file of a Python module; use a name such as my_task.py")
    try:
        return UserModule(path.stem, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PluginError(f"{path}: cannot be read ({reason})") from None


def uninstall() -> None:
    """Remove the entries of all files from the registries."""
    for registry in REGISTRIES:
        registry.remove_files()


def install(modules: Iterable[UserModule]) -> None:
    """Import the modules and add their entries to the registries.

    Raises PluginError if a module cannot be imported or binds no entry.
    """
    for module in modules:
        loaded = _import(module)
        found = [each for each in REGISTRIES if _binds(loaded, each)]
        if not found:
            allowed = ", ".join(dict.fromkeys(each.attribute for each in REGISTRIES))
            raise PluginError(f"{module.name}.py: binds no entry; bind one of {allowed}")
        for registry in found:
            registry.add(module.name, getattr(loaded, registry.attribute), module.sha256)


def _binds(loaded: ModuleType, registry: Registry[Any]) -> bool:
    """Return whether the module binds an entry of its own. One that it only imports, such as the
    `MODEL` of a package, has a name already."""
    own = vars(loaded)
    return registry.attribute in own and not registry.has_installed(own[registry.attribute])


def _import(module: UserModule) -> ModuleType:
    if module.module_name in sys.modules:
        return sys.modules[module.module_name]
    loaded = ModuleType(module.module_name)
    loaded.__file__ = f"{module.name}.py"
    source = f"<{module.module_name}>"
    # Tracebacks show the lines of the file, of which this machine may have no copy.
    linecache.cache[source] = (len(module.text), None, module.text.splitlines(True), source)
    sys.modules[module.module_name] = loaded  # dataclasses look their module up while it runs
    try:
        exec(compile(module.text, source, "exec", dont_inherit=True), loaded.__dict__)
    except BaseException as error:
        del sys.modules[module.module_name]
        if not isinstance(error, Exception):
            raise
        line = f" at line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise PluginError(
            f"{module.name}.py: cannot be imported{line} ({describe_error(error)})"
        ) from error
    return loaded
