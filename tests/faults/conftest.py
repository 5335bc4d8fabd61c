"""The results of an undisturbed sweep, and an empty home to disturb one in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.local import servers as local
from tests.support.harness import Home, results
from tests.support.lab import LONG_SWEEP


@pytest.fixture(scope="session")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """The results of the undisturbed sweep by trial key."""
    home = Home(tmp_path_factory.mktemp("undisturbed") / "home")
    run = home.run("run", home.sweep(LONG_SWEEP | {"placement": {"tracking": "none"}}))
    assert run.code == 0, run
    yield results(home.records())
    local.stop_services(home.path)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty home; its servers are stopped at the end."""
    home = Home(tmp_path / "home")
    yield home
    local.stop_services(home.path)
