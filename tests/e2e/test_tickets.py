"""`sweepstakes tickets` on the store of a finished sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from orchestrator.plan.graph import Trial
from orchestrator.store.ticket import compare
from tests.support.finished import Finished


def cuts(finished: Finished) -> dict[str, Trial]:
    return {trial.key: trial for trial in finished.plan if trial.kind == "cut"}


@pytest.fixture(scope="module")
def listed(finished: Finished) -> dict[str, dict[str, Any]]:
    """`tickets list --json`: the rows of the sweep's own cuts, by key."""
    rows = json.loads(finished.home.call("tickets", "list", "--json").out)
    return {row["key"]: row for row in rows if row["key"] in finished.records}


def test_every_cut_is_listed(finished: Finished, listed: dict[str, dict[str, Any]]) -> None:
    assert set(listed) == set(cuts(finished))
    for key, row in listed.items():
        trial, ref = cuts(finished)[key], finished.records[key].ticket
        assert ref is not None
        assert (row["hash"], row["nnz"], row["bytes"]) == (ref.sha256, ref.kept, ref.bytes)
        assert (row["model"], row["task"], row["level"]) == (trial.model, "easy_vqa", trial.level)
        assert tuple(row["parents"]) == trial.parents
        assert row["sparsity"] == pytest.approx(0.3 * trial.level)


def test_a_ticket_layer_by_layer(finished: Finished, listed: dict[str, dict[str, Any]]) -> None:
    key, row = next(iter(listed.items()))
    shown = json.loads(finished.home.call("tickets", "show", key[:16], "--json").out)
    assert shown["hash"] == row["hash"]
    assert sum(layer["kept"] for layer in shown["layers"]) == row["nnz"]
    assert sum(layer["size"] for layer in shown["layers"]) == 102_400


def test_the_overlap_of_two_tickets(finished: Finished, listed: dict[str, dict[str, Any]]) -> None:
    """A random and a layer-matched random ticket of equal budget overlap about as chance says."""
    random = sorted(key for key, trial in cuts(finished).items() if not trial.rides)
    a, b = [key for key in random if listed[key]["level"] == 2][:2]
    rows = json.loads(finished.home.call("tickets", "diff", a, b, "--json").out)
    with finished.home.store() as store:
        expected = compare(*(store.ticket(listed[key]["hash"]) for key in (a, b))).total
    assert (rows[-1]["both"], rows[-1]["chance"]) == (expected.both, expected.chance)
    assert rows[-1]["overlap"] == pytest.approx(rows[-1]["chance"], abs=0.02)


def test_the_store_is_sound_and_holds_nothing_idle(finished: Finished) -> None:
    verified = finished.home.call("tickets", "verify")
    assert verified.code == 0, verified
    assert "sound" in verified.out
    collected = finished.home.call("tickets", "gc", "--dry-run", "--older-than", "0")
    assert collected.code == 0, collected
    assert "0 objects" in collected.out


def test_a_ticket_leaves_the_store_as_masks(
    finished: Finished, listed: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    key, row = next(iter(listed.items()))
    done = finished.home.call("tickets", "export", key, "--to", tmp_path)
    assert done.code == 0, done
    (file,) = tmp_path.iterdir()
    exported = load_file(file)
    with finished.home.store() as store:
        masks = store.ticket(row["hash"]).masks()
    assert exported.keys() == masks.keys()
    assert all((exported[name] == mask).all() for name, mask in masks.items())
