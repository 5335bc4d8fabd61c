"""A finished sweep is extended by editing its file: only what is new runs."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from orchestrator.plan.graph import DENSE
from tests.support.finished import Finished, tiny
from tests.support.harness import FRUGAL, created, results


def extended() -> dict[str, Any]:
    """`tiny` with a third level; with one more rewind point and one more seed, a level each."""
    content = tiny() | {"name": "extended", "placement": FRUGAL}
    main = content["studies"]["main"]
    short = {"schedule": {"rate": 0.3, "levels": 1}, "controls": []}
    content["studies"] = {
        "deeper": deepcopy(main) | {"schedule": {"rate": 0.3, "levels": 3}},
        "later": deepcopy(main) | short | {"rewind": [3]},
        "wider": deepcopy(main) | short | {"rewind": [0], "seed": [1]},
    }
    return content


def test_only_the_new_runs_and_replays_for_new_riders(finished: Finished) -> None:
    """New: level 3 of two chains with two controls each, 6; one run from theta_3, which no run so
    far has kept; dense and level 1 of seed 1. The dense run is replayed for its rewind point, and
    the two runs of level 2 for their cuts to level 3."""
    home = finished.home
    sweep = home.sweep(extended())
    plan = home.plan(sweep)
    shown = json.loads(home.call("plan", sweep, "--json").out)
    assert (shown["trials"], shown["to_run"], shown["replays"]) == (13 + 9, 9, 3)
    assert shown["existing"] == len(finished.records)
    dense = next(cell.trial for cell in plan.cells if cell.curve.source == DENSE)
    point = next(
        t for t in plan if t.kind == "rewind" and t.rides == dense and t.key not in finished.records
    )
    assert dense[:12] in home.call("explain", sweep, point.key).out

    ended = home.call("run", sweep)
    assert ended.code == 0, ended
    assert "22 trials" in ended.out
    assert "9 to run" in ended.out
    records = home.records()
    assert set(records) == set(plan.trials)
    old = {key: records[key] for key in finished.records}
    assert created(old) == created(finished.records)
    assert results(old) == results(finished.records)
