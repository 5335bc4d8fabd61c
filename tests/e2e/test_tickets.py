"""`sweepstakes tickets` on the store of a finished sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from orchestrator.plan.graph import Trial
from orchestrator.store.ticket import compare_tickets
from tests.support.finished import FinishedSweep


def prune_trials(finished: FinishedSweep) -> dict[str, Trial]:
    return {trial.key: trial for trial in finished.plan if trial.kind == "prune"}


@pytest.fixture(scope="module")
def listed(finished: FinishedSweep) -> dict[str, dict[str, Any]]:
    """Rows of `tickets list --json` for the tickets of the sweep, by key."""
    rows = json.loads(finished.home.run("tickets", "list", "--json").out)
    return {row["key"]: row for row in rows if row["key"] in finished.records}


def test_every_ticket_is_listed(finished: FinishedSweep, listed: dict[str, dict[str, Any]]) -> None:
    assert set(listed) == set(prune_trials(finished))
    for key, row in listed.items():
        trial, ref = prune_trials(finished)[key], finished.records[key].ticket
        assert ref is not None
        assert (row["hash"], row["nnz"], row["bytes"]) == (ref.sha256, ref.kept, ref.bytes)
        assert (row["model"], row["task"], row["level"]) == (trial.model, "easy_vqa", trial.level)
        assert tuple(row["parents"]) == trial.parents
        assert row["sparsity"] == pytest.approx(0.3 * trial.level)


def test_a_ticket_layer_by_layer(
    finished: FinishedSweep, listed: dict[str, dict[str, Any]]
) -> None:
    key, row = next(iter(listed.items()))
    shown = json.loads(finished.home.run("tickets", "show", key[:16], "--json").out)
    assert shown["hash"] == row["hash"]
    assert sum(layer["kept"] for layer in shown["layers"]) == row["nnz"]
    assert sum(layer["size"] for layer in shown["layers"]) == 102_400


def test_the_overlap_of_two_tickets(
    finished: FinishedSweep, listed: dict[str, dict[str, Any]]
) -> None:
    """A random and a layer-matched random ticket of equal size overlap about as by chance."""
    random = sorted(key for key, trial in prune_trials(finished).items() if not trial.produced_by)
    a, b = [key for key in random if listed[key]["level"] == 2][:2]
    rows = json.loads(finished.home.run("tickets", "diff", a, b, "--json").out)
    with finished.home.store() as store:
        expected = compare_tickets(*(store.ticket(listed[key]["hash"]) for key in (a, b))).total
    assert (rows[-1]["both"], rows[-1]["chance"]) == (expected.kept_both, expected.chance)
    assert rows[-1]["overlap"] == pytest.approx(rows[-1]["chance"], abs=0.02)


def test_the_store_is_valid_and_has_no_orphans(finished: FinishedSweep) -> None:
    verified = finished.home.run("tickets", "verify")
    assert verified.code == 0, verified
    assert "bytes: ok" in verified.out
    collected = finished.home.run("tickets", "gc", "--dry-run", "--older-than", "0")
    assert collected.code == 0, collected
    assert "0 objects" in collected.out


def test_a_ticket_is_exported_as_masks(
    finished: FinishedSweep, listed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    key, row = next(iter(listed.items()))
    done = finished.home.run("tickets", "export", key, "--to", tmp_path)
    assert done.code == 0, done
    (file,) = tmp_path.iterdir()
    exported = load_file(file)
    with finished.home.store() as store:
        masks = store.ticket(row["hash"]).arrays()
    assert exported.keys() == masks.keys()
    assert all((exported[name] == mask).all() for name, mask in masks.items())
