"""A sweep on Ray's own autoscaler: nodes come while trials wait, and go when chains leave them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cluster.local import servers as local
from orchestrator.store.s3 import StoreAddress
from tests.support.fake_cluster import Cluster, cluster
from tests.support.finished import tiny
from tests.support.harness import Home, ended, until

pytestmark = pytest.mark.slow

MOST = 3
"""Worker nodes, of one trial each."""


@pytest.fixture(scope="module", params=["v1", "v2"])
def growing(seaweed: local.Services, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A head without room for a trial, and an autoscaler: that of `ray up`, and KubeRay's."""
    with cluster(
        cpus=0,
        worker={"CPU": 1},
        most=MOST,
        idle_s=4,
        v2=request.param == "v2",
        environment=seaweed.environment(),
    ) as made:
        yield made


@pytest.fixture
def driving(growing: Cluster, seaweed: local.Services, tmp_path: Path) -> Home:
    """A home whose commands drive that cluster."""
    environment = {
        **growing.environment(),
        **seaweed.environment(),
        "RAY_ADDRESS": growing.address,
    }
    return Home(tmp_path / "home", environment)


def test_nodes_come_and_go_with_the_chains(
    growing: Cluster, driving: Home, address: StoreAddress
) -> None:
    """Three chains, of which one outlasts the test: first a node for each, then few."""
    content: dict[str, Any] = tiny() | {
        "placement": {
            "store": {"url": address.url, "endpoint": address.endpoint},
            "tracking": "none",
        }
    }
    study = content["studies"]["main"] | {"rewind": 0, "controls": []}
    content["recipes"]["endless"] = content["recipes"]["four"] | {"steps": 1_000_000}
    content["studies"] = {
        "short": study | {"seed": [1, 2], "schedule": {"rate": 0.3, "levels": 1}},
        "long": study | {"recipe": "endless"},
    }
    run = driving.start("run", driving.sweep(content))
    until(lambda: growing.nodes() >= 1 + MOST, run)
    # The long chain's node, and at most the one that Ray Tune keeps warm for a next lane.
    until(lambda: growing.nodes() <= 1 + 2, run)
    run.send_signal(signal.SIGTERM)
    stopped = ended(run)
    assert stopped.code == 130, stopped

    report = driving.path / "reports" / "tiny"
    assert (report / "capacity.svg").stat().st_size
    samples = pd.read_csv(report / "capacity.csv")
    assert samples.nodes.iloc[0] == 1
    assert samples.places.iloc[0] == 0
    # Not the most nodes: an idle one that goes overlaps with the one that comes for it.
    assert samples.nodes.max() >= 1 + MOST
    assert samples.busy.max() > 1
    assert samples.nodes[samples.nodes.idxmax() :].min() <= 1 + 2


def test_a_store_of_one_machine_is_refused(driving: Home) -> None:
    run = driving.call("run", driving.sweep(tiny() | {"placement": {"tracking": "none"}}))
    assert run.code == 2, run
    assert "placement.store = local" in run.err
    assert "Traceback" not in run.err
