"""The cost of the rest of a sweep, estimated from its first runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.finished import FinishedSweep, tiny_sweep
from tests.support.harness import MINIMAL_PLACEMENT, Home
from tests.support.profiles import SPOT, profile


@pytest.fixture
def wider(finished: FinishedSweep, tmp_path: Path) -> Path:
    """The finished sweep with a second seed, on a cluster of spot nodes with 16 slots each.

    Two nodes are always up.
    """
    content: dict[str, Any] = tiny_sweep()
    content["studies"]["main"]["seed"] = [0, 2]  # `test_extending` adds seed 1
    machines = tmp_path / "cluster.yaml"
    machines.write_text(yaml.safe_dump(profile(SPOT | {"min": 2}).model_dump()))
    content["placement"] = {"cluster": str(machines), "mtbf_s": 600.0}
    path = tmp_path / "wider.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_rest_of_a_sweep_in_hours_and_money(finished: FinishedSweep, wider: Path) -> None:
    result = finished.home.run("plan", wider, "--json")
    assert result.code == 0, result
    shown = json.loads(result.out)
    assert (shown["committed_trials"], shown["new_runs"]) == (len(finished.records), 13)
    estimate = shown["estimate"]
    seconds = [record.costs["seconds"] for record in finished.records.values() if record.scores]
    assert (
        min(seconds) * 13
        <= 3600 * estimate["slot_hours"]["low"]
        <= 3600 * estimate["slot_hours"]["high"]
    )
    assert estimate["measured_share"] == 1
    assert estimate["slots"] == 8 * 16
    wall, money = estimate["wall_hours"], estimate["money"]
    assert money["low"] == pytest.approx(wall["low"] * (2 * 4.0 + 0.5))
    assert money["high"] == pytest.approx(wall["high"] * (2 * 4.0 + 0.5))
    assert estimate["checkpointing"]["longest_trial_s"] < estimate["checkpointing"]["interval_s"]


def test_the_estimate_as_text(finished: FinishedSweep, wider: Path) -> None:
    output = finished.home.run("plan", wider).out
    assert "EUR" in output
    assert "not measured yet" not in output
    (device,) = {r.environment["device"] for r in finished.records.values()}
    assert device[:20] in output


@pytest.mark.slow
def test_a_budget_stops_a_run_that_can_be_resumed(home: Home, tmp_path: Path) -> None:
    """The head costs 10 per second: a budget of 6 is spent before any worker has started."""
    machines = tmp_path / "cluster.yaml"
    expensive = profile(SPOT | {"price_per_hour": 0.0}, head=10 * 3600.0)
    machines.write_text(yaml.safe_dump(expensive.model_dump()))
    sweep = home.sweep(tiny_sweep() | {"placement": MINIMAL_PLACEMENT | {"cluster": str(machines)}})
    stopped = home.run("run", sweep, "--budget", "6")
    assert stopped.code == 1, stopped
    assert "of 6 EUR" in stopped.out
    assert "training runs are left" in stopped.out
    assert "the budget is spent" in stopped.err
    assert not home.records()
    resumed = home.run("run", sweep)
    assert resumed.code == 0, resumed
    assert "spent" in resumed.out
    assert set(home.records()) == set(home.plan(sweep).trials)
