"""Starting a Ray cluster on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from orchestrator.errors import RunError
from orchestrator.ray_cluster.join import START_ATTEMPTS, joined_cluster


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The errors with which Ray fails to start, one per attempt; then it starts."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    errors: list[str] = []

    def init(**options: Any) -> None:
        if errors:
            raise Exception(errors.pop())

    monkeypatch.setattr(ray, "init", init)
    return errors


def test_ray_is_started_again_if_the_machine_was_too_busy(failures: list[str]) -> None:
    failures += ["The current node timed out during startup.\nMore."] * (START_ATTEMPTS - 1)
    with joined_cluster():
        assert not failures


def test_a_ray_that_never_starts_costs_one_line(failures: list[str]) -> None:
    failures += ["The current node timed out during startup.\nMore."] * START_ATTEMPTS
    expected = pytest.raises(RunError, match="Exception: The current node timed out")
    with expected as caught, joined_cluster():
        pytest.fail("there is no cluster")
    assert "\n" not in str(caught.value)
