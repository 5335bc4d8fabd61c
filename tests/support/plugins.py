"""Parts from outside the package: entries added for a test, and packages with entry points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from trainables import registry
from trainables.registry import Registry
from trainables.user_modules import uninstall

SOURCE = "5" * 64


@contextmanager
def registered(table: Registry[Any], name: str, entry: object) -> Iterator[None]:
    """Add an entry to a table within the context, as a package does."""
    table._added[name], table._sources[name] = entry, SOURCE
    try:
        yield
    finally:
        del table._added[name], table._sources[name]


def add_broken_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every registry have an entry point `broken` whose package cannot be imported."""
    monkeypatch.setattr(
        registry,
        "_entry_points",
        lambda group: {"broken": EntryPoint("broken", "no_such_package:ENTRY", group)},
    )


@contextmanager
def installed_packages(folder: Path) -> Iterator[None]:
    """Let this process find the packages in `folder` within the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        _forget_packages()
        yield
    _forget_packages()


def _forget_packages() -> None:
    registry._installed.cache_clear()
    registry._entry_points.cache_clear()
    uninstall()
    for table in registry.REGISTRIES:
        table._added.clear()
        table._sources.clear()


def write_package(
    folder: Path, package: str, files: Mapping[str, str], entry_points: Mapping[str, str]
) -> None:
    """Write an installed package into `folder`, as pip would: its modules, and the metadata with
    its entry points (`GROUP.NAME` -> `MODULE:ATTRIBUTE`)."""
    for name, text in files.items():
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for name, target in entry_points.items():
        group, _, entry = name.rpartition(".")
        lines.append(f"[{group}]\n{entry} = {target}\n")
    (metadata / "entry_points.txt").write_text("\n".join(lines))
