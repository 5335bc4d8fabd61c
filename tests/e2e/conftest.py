"""One small sweep, run once for all tests that look at a finished one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.local import servers as local
from orchestrator.api import workspace
from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from tests.support.harness import Ended, Home

TIMEOUT_S = 900
"""A sweep of seconds takes minutes where many share two cores."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


def tiny() -> dict[str, Any]:
    """13 training runs of 4 steps: IMP of two levels from theta_0 and theta_2, and its controls."""
    study = {
        "model": "uniter-tiny",
        "task": "easy_vqa",
        "recipe": "four",
        "seed": [0],
        "rewind": [0, 2],
        "schedule": {"rate": 0.3, "levels": 2},
        "controls": ["random", "random_layerwise"],
    }
    recipe = {"steps": 4, "batch_size": 16, "eval_examples": 256}
    return {"name": "tiny", "recipes": {"four": recipe}, "studies": {"main": study}}


@dataclass(frozen=True, slots=True)
class Finished:
    home: Home
    sweep: Path
    plan: Plan
    ended: Ended
    records: dict[str, Record]
    """As the run left them."""


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
