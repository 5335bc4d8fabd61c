"""A trial on two nodes, both raylets of this machine, against the same trial in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.nodes import RayNodes, start_nodes
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    with start_nodes(tmp_path_factory.mktemp("nodes"), 2) as started:
        yield started


def run_case(nodes: RayNodes, *case: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.multi_node", *case],
        cwd=ROOT,
        env={**os.environ, **nodes.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_two_nodes_compute_the_same_bits_as_one_process(nodes: RayNodes) -> None:
    result = run_case(nodes, "compare")
    assert result["outcome"]
    assert result["rewinds"]
    assert len(set(result["masks"])) == 1


def test_an_error_is_the_same_as_in_one_process(nodes: RayNodes) -> None:
    results = run_case(nodes, "errors")
    for case, error, message, checkpoints in (
        ("stop", "Stopped", "step 3", 1),
        ("diverge", "InvariantError", "finite", 0),
        ("raise_error", "RuntimeError", "the store is gone", 0),
    ):
        result = results[case]
        assert (result["class"], result["checkpoints"]) == (error, checkpoints), case
        assert message in result["text"]


def test_the_loss_of_a_node_is_reported_as_machine_lost(nodes: RayNodes) -> None:
    result = run_case(nodes, "kill_node", nodes.node_tokens[-1])
    assert result["class"] == "MachineLost", result["text"]
