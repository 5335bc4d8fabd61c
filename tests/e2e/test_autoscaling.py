"""A sweep on Ray's own autoscaler: it adds nodes for pending trials and removes idle ones."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cluster.local import servers as local
from orchestrator.store.s3 import StoreAddress
from orchestrator.store.tickets import TrialStore
from tests.support.fake_cluster import FakeCluster, ray_cluster
from tests.support.finished import tiny_sweep
from tests.support.harness import Home, wait_for_exit, wait_until

pytestmark = pytest.mark.slow

MAX_NODES = 3
"""Worker nodes, with one slot each."""


@pytest.fixture(scope="module", params=["v1", "v2"])
def autoscaling_cluster(
    seaweed: local.Services, request: pytest.FixtureRequest
) -> Iterator[FakeCluster]:
    """A head without slots, and an autoscaler: that of `ray up`, and that of KubeRay."""
    with ray_cluster(
        cpus=0,
        worker={"CPU": 1},
        max_nodes=MAX_NODES,
        idle_s=4,
        v2=request.param == "v2",
        environment=seaweed.environment(),
    ) as made:
        yield made


@pytest.fixture
def driver_home(autoscaling_cluster: FakeCluster, seaweed: local.Services, tmp_path: Path) -> Home:
    """A home whose commands use that cluster."""
    environment = {
        **autoscaling_cluster.environment(),
        **seaweed.environment(),
        "RAY_ADDRESS": autoscaling_cluster.address,
    }
    return Home(tmp_path / "home", environment)


def test_nodes_are_added_and_removed_with_the_chains(
    autoscaling_cluster: FakeCluster,
    driver_home: Home,
    address: StoreAddress,
    store: TrialStore,
) -> None:
    """Three chains, one of which outlasts the test: first a node for each, then fewer."""
    content: dict[str, Any] = tiny_sweep() | {
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
    run = driver_home.start("run", driver_home.sweep(content))
    wait_until(lambda: autoscaling_cluster.count_nodes() >= 1 + MAX_NODES, run)
    # Two trained levels and a ticket of each short chain. On a slow machine an idle node may leave
    # before a trial has started on it.
    wait_until(lambda: len(store.keys()) >= 2 * 3, run)
    # The long chain's node, and at most the one that Ray Tune keeps warm for another trial.
    wait_until(lambda: autoscaling_cluster.count_nodes() <= 1 + 2, run)
    run.send_signal(signal.SIGTERM)
    stopped = wait_for_exit(run)
    assert stopped.code == 130, stopped

    report = driver_home.path / "reports" / "tiny"
    assert (report / "capacity.svg").stat().st_size
    samples = pd.read_csv(report / "capacity.csv")
    assert samples.nodes.iloc[0] == 1
    assert samples.slots.iloc[0] == 0
    # It can be exceeded: an idle node that leaves overlaps with the one that replaces it.
    assert samples.nodes.max() >= 1 + MAX_NODES
    assert samples.busy.max() > 1
    assert samples.nodes[samples.nodes.idxmax() :].min() <= 1 + 2


def test_a_local_store_is_refused(driver_home: Home) -> None:
    run = driver_home.run(
        "run", driver_home.sweep(tiny_sweep() | {"placement": {"tracking": "none"}})
    )
    assert run.code == 2, run
    assert "placement.store = local" in run.err
    assert "Traceback" not in run.err
