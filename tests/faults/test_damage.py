"""A ticket whose bits changed in the store: it is named, not worn, made again, and outlived."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.store import paths
from tests.support.harness import FRUGAL, Home, created, results
from tests.support.lab import LONG

pytestmark = pytest.mark.slow


def chain(levels: int) -> dict[str, Any]:
    """The IMP chain from theta_0, without controls, and beside it a dense run of another seed, that
    is new at every number of levels."""
    content = LONG | {"placement": FRUGAL}
    main = content["studies"]["main"] | {"rewind": 0, "controls": []}
    content["studies"] = {
        "chain": main | {"schedule": {"rate": 0.3, "levels": levels}},
        "beside": main | {"schedule": {"rate": 0.3, "levels": 0}, "seed": levels},
    }
    return content


def test_damage_is_found_mended_and_outlived(home: Home, undisturbed: dict[str, Any]) -> None:
    first = home.call("run", home.sweep(chain(1)))
    assert first.code == 0, first
    before = created(home.records())

    file = home.sweep(chain(2))
    plan = home.plan(file)
    cut = next(trial for trial in plan if trial.kind == "cut" and trial.level == 1)
    with home.store() as store:
        ref = store.record(cut.key).ticket
        assert ref is not None
        path = paths.ticket(ref.sha256)
        data = bytearray(store.objects.get(path))
        data[len(data) // 2] ^= 1
        store.objects.put(path, bytes(data))
        where = store.objects.where(path)

    stopped = home.call("run", file)
    assert stopped.code == 1, stopped
    (told,) = (line for line in stopped.err.splitlines() if line.startswith("failed"))
    assert where in told
    assert "tickets verify --repair" in told
    assert "1 blocked" in stopped.err
    beside = {cell.trial for cell in plan.cells if cell.curve.study == "beside"}
    assert beside <= set(home.records()), "what does not need the ticket runs"

    found = home.call("tickets", "verify")
    assert found.code == 1
    assert where in found.out
    repaired = home.call("tickets", "verify", "--repair")
    assert repaired.code == 0, repaired
    healed = home.call("run", file)
    assert healed.code == 0, healed
    assert home.call("tickets", "verify").code == 0
    records = home.records()
    del before[cut.key]  # made again, under the same hash
    assert before.items() <= created(records).items()
    shared = records.keys() & undisturbed.keys()
    assert cut.key in shared
    assert results({key: records[key] for key in shared}) == {
        key: undisturbed[key] for key in shared
    }
