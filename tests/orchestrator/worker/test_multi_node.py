"""A trial on two machines, which are raylets of this one, against the same trial in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.nodes import Nodes, several
from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with several(tmp_path_factory.mktemp("nodes"), 2) as whole:
        yield whole


def told(nodes: Nodes, *case: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.multi_node", *case],
        cwd=ROOT,
        env={**os.environ, **nodes.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_two_machines_give_the_bits_of_one_process(nodes: Nodes) -> None:
    found = told(nodes, "alike")
    assert found["outcome"]
    assert found["rewinds"]
    assert len(set(found["masks"])) == 1


@pytest.mark.parametrize(
    ("case", "kind", "words", "checkpoints"),
    [
        ("stop", "Stopped", "step 3", 1),
        ("diverge", "InvariantError", "finite", 0),
        ("refuse", "RuntimeError", "the store is gone", 0),
    ],
)
def test_what_ends_a_group_is_told_as_in_one_process(
    nodes: Nodes, case: str, kind: str, words: str, checkpoints: int
) -> None:
    found = told(nodes, case)
    assert (found["class"], found["checkpoints"]) == (kind, checkpoints)
    assert words in found["text"]


def test_a_machine_that_goes_away_is_no_fault_of_the_trial(nodes: Nodes) -> None:
    found = told(nodes, "lose", nodes.alive[-1])
    assert found["class"] == "MachineLost", found["text"]
