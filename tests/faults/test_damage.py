"""A ticket is damaged in the store: it is reported, not applied, repaired, and the sweep
recovers."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.store import paths
from tests.support.harness import MINIMAL_PLACEMENT, Home, commit_times, results
from tests.support.lab import LONG_SWEEP

pytestmark = pytest.mark.slow


def chain(levels: int) -> dict[str, Any]:
    """Return the IMP chain from theta_0, without controls, and a dense run whose seed is `levels`,
    so that it is new for each number of levels."""
    content = LONG_SWEEP | {"placement": MINIMAL_PLACEMENT}
    main = content["studies"]["main"] | {"rewind": 0, "controls": []}
    content["studies"] = {
        "chain": main | {"schedule": {"rate": 0.3, "levels": levels}},
        "dense": main | {"schedule": {"rate": 0.3, "levels": 0}, "seed": levels},
    }
    return content


def test_damage_is_found_and_repaired(home: Home, baseline: dict[str, Any]) -> None:
    first = home.run("run", home.sweep(chain(1)))
    assert first.code == 0, first
    before = commit_times(home.records())

    file = home.sweep(chain(2))
    plan = home.plan(file)
    prune = next(trial for trial in plan if trial.kind == "prune" and trial.level == 1)
    with home.store() as store:
        ref = store.record(prune.key).ticket
        assert ref is not None
        path = paths.ticket(ref.sha256)
        data = bytearray(store.objects.get(path))
        data[len(data) // 2] ^= 1
        store.objects.put(path, bytes(data))
        url = store.objects.url(path)

    failed = home.run("run", file)
    assert failed.code == 1, failed
    (message,) = (line for line in failed.err.splitlines() if line.startswith("failed"))
    assert url in message
    assert "tickets verify --repair" in message
    assert "1 blocked" in failed.err
    dense = {cell.trial for cell in plan.cells if cell.curve.study == "dense"}
    assert dense <= set(home.records()), "a run that does not need the ticket did not run"

    verified = home.run("tickets", "verify")
    assert verified.code == 1
    assert url in verified.out
    repaired = home.run("tickets", "verify", "--repair")
    assert repaired.code == 0, repaired
    rerun = home.run("run", file)
    assert rerun.code == 0, rerun
    assert home.run("tickets", "verify").code == 0
    records = home.records()
    del before[prune.key]  # its ticket is computed again, with the same hash
    assert before.items() <= commit_times(records).items()
    shared = records.keys() & baseline.keys()
    assert prune.key in shared
    assert results({key: records[key] for key in shared}) == {key: baseline[key] for key in shared}
