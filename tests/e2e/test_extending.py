"""A finished sweep is extended by editing its file: only new trials run."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from orchestrator.plan.graph import DENSE
from tests.support.finished import FinishedSweep, tiny_sweep
from tests.support.harness import MINIMAL_PLACEMENT, commit_times, results


def extended() -> dict[str, Any]:
    """`tiny_sweep` with a third level, and with another rewind point and seed of one level each."""
    content = tiny_sweep() | {"name": "extended", "placement": MINIMAL_PLACEMENT}
    main = content["studies"]["main"]
    short = {"schedule": {"rate": 0.3, "levels": 1}, "controls": []}
    content["studies"] = {
        "deeper": deepcopy(main) | {"schedule": {"rate": 0.3, "levels": 3}},
        "later": deepcopy(main) | short | {"rewind": [3]},
        "wider": deepcopy(main) | short | {"rewind": [0], "seed": [1]},
    }
    return content


def test_only_new_runs_and_replays_for_new_artifacts_are_executed(finished: FinishedSweep) -> None:
    """Nine runs are new, and three are replayed.

    New: level 3 of two chains with two controls each, 6; one run from theta_3, which no earlier run
    has stored; dense and level 1 of seed 1. The dense run is replayed for its rewind point, and the
    two runs of level 2 for their tickets of level 3.
    """
    home = finished.home
    sweep = home.sweep(extended())
    plan = home.plan(sweep)
    shown = json.loads(home.run("plan", sweep, "--json").out)
    assert (shown["training_runs"], shown["new_runs"], shown["replays"]) == (13 + 9, 9, 3)
    assert shown["committed_trials"] == len(finished.records)
    dense = next(cell.trial for cell in plan.cells if cell.curve.source == DENSE)
    point = next(
        t
        for t in plan
        if t.kind == "rewind" and t.produced_by == dense and t.key not in finished.records
    )
    assert dense[:12] in home.run("explain", sweep, point.key).out

    result = home.run("run", sweep)
    assert result.code == 0, result
    assert "22 trials" in result.out
    assert "9 to run" in result.out
    records = home.records()
    assert set(records) == set(plan.trials)
    old = {key: records[key] for key in finished.records}
    assert commit_times(old) == commit_times(finished.records)
    assert results(old) == results(finished.records)
