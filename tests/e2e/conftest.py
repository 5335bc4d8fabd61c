"""One small sweep that is run once for all tests of a finished one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import servers as local
from orchestrator.api import workspace
from tests.support.finished import FinishedSweep, tiny_sweep
from tests.support.harness import Home


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedSweep]:
    """`tiny_sweep`, after its run. Its servers stay up, so that later commands are fast."""
    home = Home(tmp_path_factory.mktemp("finished") / "home")
    sweep = home.sweep(tiny_sweep())
    with workspace.local_services(home.path, ["s3", "mlflow"]):
        result = home.run("run", sweep)
        yield FinishedSweep(home, sweep, home.plan(sweep), result, home.records())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty home. Servers that are left in it are stopped."""
    home = Home(tmp_path / "home")
    yield home
    local.stop_services(home.path)
