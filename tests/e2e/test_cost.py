"""What the rest of a sweep costs, told from what its first runs took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.finished import Finished, tiny
from tests.support.harness import FRUGAL, Home
from tests.support.profiles import SPOT, profile


@pytest.fixture
def wider(finished: Finished, tmp_path: Path) -> Path:
    """The finished sweep with a second seed, on a cluster of spot nodes that hold 16 trials each;
    two of them are always up."""
    content: dict[str, Any] = tiny()
    content["studies"]["main"]["seed"] = [0, 2]  # not the seed that `test_extending` adds to it
    machines = tmp_path / "cluster.yaml"
    machines.write_text(yaml.safe_dump(profile(SPOT | {"min": 2}).model_dump()))
    content["placement"] = {"cluster": str(machines), "lost_every_s": 600.0}
    path = tmp_path / "wider.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_rest_of_a_sweep_in_hours_and_money(finished: Finished, wider: Path) -> None:
    ended = finished.home.call("plan", wider, "--json")
    assert ended.code == 0, ended
    shown = json.loads(ended.out)
    assert (shown["existing"], shown["to_run"]) == (len(finished.records), 13)
    ahead = shown["estimate"]
    took = [record.costs["seconds"] for record in finished.records.values() if record.scores]
    assert min(took) * 13 <= 3600 * ahead["slot_hours"]["low"] <= 3600 * ahead["slot_hours"]["high"]
    assert ahead["measured"] == 1
    assert ahead["slots"] == 8 * 16
    wall, money = ahead["wall_hours"], ahead["money"]
    assert money["low"] == pytest.approx(wall["low"] * (2 * 4.0 + 0.5))
    assert money["high"] == pytest.approx(wall["high"] * (2 * 4.0 + 0.5))
    assert ahead["saving"]["longest_s"] < ahead["saving"]["period_s"]


def test_the_same_in_words(finished: Finished, wider: Path) -> None:
    words = finished.home.call("plan", wider).out
    assert "EUR" in words
    assert "not measured yet" not in words
    (device,) = {r.environment["device"] for r in finished.records.values()}
    assert device[:20] in words


@pytest.mark.slow
def test_a_budget_stops_a_run_that_goes_on_with_another(home: Home, tmp_path: Path) -> None:
    """The head costs 10 a second: the budget of 6 is gone before any worker has started."""
    machines = tmp_path / "cluster.yaml"
    dear = profile(SPOT | {"price_per_hour": 0.0}, head=10 * 3600.0)
    machines.write_text(yaml.safe_dump(dear.model_dump()))
    sweep = home.sweep(tiny() | {"placement": FRUGAL | {"cluster": str(machines)}})
    stopped = home.call("run", sweep, "--budget", "6")
    assert stopped.code == 1, stopped
    assert "of 6 EUR" in stopped.out
    assert "training runs are left" in stopped.out
    assert "the budget is reached" in stopped.err
    assert not home.records()
    went_on = home.call("run", sweep)
    assert went_on.code == 0, went_on
    assert "spent" in went_on.out
    assert set(home.records()) == set(home.plan(sweep).trials)
