"""One small sweep, run once for all tests that look at a finished one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import servers as local
from orchestrator.api import workspace
from tests.support.finished import Finished, tiny
from tests.support.harness import Home

TIMEOUT_S = 900
"""A sweep of seconds takes minutes where many share two cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """`tiny`, run; the servers of its home stay up, so that the commands after it are quick."""
    home = Home(tmp_path_factory.mktemp("finished") / "home")
    sweep = home.sweep(tiny())
    with workspace.serving(home.path, ["s3", "mlflow"]):
        ended = home.call("run", sweep)
        yield Finished(home, sweep, home.plan(sweep), ended, home.records())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty home; its servers, if any are left, are ended."""
    home = Home(tmp_path / "home")
    yield home
    local.stop(home.path)
