"""A sweep long enough to be hit, its undisturbed results, and a home to disturb it in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.local import servers as local
from tests.support.harness import Home, results
from tests.support.lab import LONG

TIMEOUT_S = 900
"""Two runs of a sweep and the undisturbed one, where many share two cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What the sweep gives when it is left alone: the results by trial key."""
    home = Home(tmp_path_factory.mktemp("undisturbed") / "home")
    ended = home.call("run", home.sweep(LONG | {"placement": {"tracking": "none"}}))
    assert ended.code == 0, ended
    yield results(home.records())
    local.stop(home.path)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty home; its servers, if any are left, are ended."""
    home = Home(tmp_path / "home")
    yield home
    local.stop(home.path)
