"""The page on adding parts: its files and packages work as they are written there."""

from __future__ import annotations

import tomllib
from pathlib import Path

from orchestrator.api import workspace
from orchestrator.api.providers import PROVIDERS
from tests.support import pages, plugins
from tests.support.paths import ROOT
from trainables.registry import REGISTRIES

PAGE = ROOT / "orchestrator" / "extending.md"


def test_the_parts_on_the_page_are_planned_and_keep_their_contracts(tmp_path: Path) -> None:
    files = pages.files(PAGE)
    project = tomllib.loads(files.pop("pyproject.toml"))
    (package,) = project["tool"]["setuptools"]["py-modules"]
    entry_points = {
        f"{group}.{name}": target
        for group, points in project["project"]["entry-points"].items()
        for name, target in points.items()
    }
    module = {"__init__.py": files.pop(f"{package}.py")}
    plugins.write_package(tmp_path / "site", package, module, entry_points)
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    cells = pages.cells(PAGE)
    tests = [name.removesuffix(".py") for name in files if name.startswith("test_")]
    assert len(tests) == 2
    calls = [f"import {name}\n{name}.{name}()" for name in tests]
    sources = [source for source, _ in cells] + calls
    shown = pages.run_cells(sources, tmp_path, tmp_path / "site")
    assert shown == [expected for _, expected in cells] + [""] * len(calls)


def test_the_page_lists_every_table() -> None:
    text = PAGE.read_text()
    assert workspace.STRATEGIES in REGISTRIES  # it imports all tables but the providers
    tables = {table.group.removeprefix("sweepstakes."): table for table in REGISTRIES}
    assert {"providers", "strategies", "sources", "data_schemes", "optimizers"} <= tables.keys()
    for group, table in tables.items():
        attribute = "entry point only" if table is PROVIDERS else f"`{table.attribute}`"
        assert f"| `{group}` | {attribute} |" in text, group
