"""A run's cluster over time: followed on a real Ray, told, and drawn."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

from orchestrator.errors import ConfigError
from orchestrator.monitor.timeline import Timeline
from orchestrator.ray_cluster.capacity import WAITING, at_once, one_host, places, roomy
from orchestrator.ray_cluster.node_watch import shown
from orchestrator.report.sections.capacity import use, write_capacity
from orchestrator.sweep.config import Placement


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    """A Ray of this machine alone, with room for two trials of 2 CPUs."""
    ray.init(
        address="local",
        num_cpus=5,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def node(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("placement", "held"),
    [
        ({}, 12),
        ({"cpus": 3}, 3),  # 2 on the first node, 1 on the second: rests do not add up
        ({"gpus": 1.0}, 2),
        ({"gpus": 0.5}, 4),
        ({"gpus": 0.3}, 6),  # 0.9 / 0.3 is 3
        ({"workers": 4}, 3),
        ({"workers": 4, "nodes": 2}, 3),
        ({"workers": 5}, 1),
        ({"workers": 8, "nodes": 2}, 1),
        ({"workers": 10, "nodes": 2}, 0),  # the second node does not hold 5
        ({"workers": 3, "nodes": 3}, 0),  # there are two
    ],
)
def test_places_are_what_the_nodes_alive_hold(placement: dict[str, Any], held: int) -> None:
    nodes = [
        node(CPU=8, GPU=1),
        node(CPU=4, GPU=1),
        node(CPU=0),
        node(alive=False, CPU=64, GPU=8),
    ]
    assert places(nodes, Placement(**placement)) == held


def test_as_many_trials_wait_as_the_cluster_may_come_to_hold(machine: None) -> None:
    two = Placement(cpus=2)
    assert at_once(two) == 2
    assert at_once(two, most=40) == 40
    assert at_once(two, most=1) == 2
    assert at_once(Placement(cpus=2, slots=7), most=40) == 7
    assert at_once(Placement(cpus=64)) == WAITING  # none fits yet: only growth can help


def test_a_trial_that_this_machine_never_holds_is_refused(
    machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = roomy(Path("sweep.yaml"), Placement(gpus=1))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with large:  # a cluster may be about to grow
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    with roomy(Path("sweep.yaml"), Placement(cpus=5)):
        pass
    with (
        pytest.raises(ConfigError, match=r"sweep\.yaml: placement: .* 1 GPUs .* 5 CPUs"),
        roomy(Path("sweep.yaml"), Placement(gpus=1)),
    ):
        raise AssertionError("the run must not begin")


def test_where_nodes_are_added_trials_wait_and_a_store_of_one_machine_is_refused(
    machine: None,
) -> None:
    with one_host(Path("sweep.yaml")):
        pass
    report = {"autoscaler_report": {"active_nodes": {"ray.head.default": 1}}}
    _internal_kv_put("__autoscaling_status", json.dumps(report))
    try:
        assert at_once(Placement(cpus=2)) == WAITING
        with (
            pytest.raises(ConfigError, match=r"sweep\.yaml: placement\.store = local"),
            one_host(Path("sweep.yaml")),
        ):
            raise AssertionError("the run must not begin")
    finally:
        _internal_kv_del("__autoscaling_status")


def test_a_run_is_followed_from_its_start_to_its_end(machine: None, tmp_path: Path) -> None:
    timeline = Timeline(Placement(cpus=2))
    assert timeline.write(tmp_path) == ""
    assert not list(tmp_path.iterdir())
    with shown(timeline.see):
        for follow in (timeline.started, timeline.started, timeline.ended, timeline.ended):
            follow([])
            time.sleep(0.005)  # samples are told apart by the millisecond
    told = timeline.write(tmp_path)
    assert told.startswith("1 node, ")
    samples = pd.read_csv(tmp_path / "capacity.csv")
    assert list(samples.columns) == ["seconds", "nodes", "places", "busy"]
    assert list(samples.busy) == [0, 1, 2, 1, 0, 0]
    assert set(samples.nodes) == {1}
    assert set(samples.places) == {2}
    assert samples.seconds.is_monotonic_increasing


def test_use_is_busy_time_by_the_time_of_the_places(tmp_path: Path) -> None:
    """2 places for 10 s, 4 for 10 s: 60 place-seconds, of which 1 x 10 + 2 x 10 were busy."""
    samples = pd.DataFrame(
        {"seconds": [0, 10, 20], "nodes": [1, 2, 1], "places": [2, 4, 0], "busy": [1, 2, 0]}
    )
    assert use(samples) == pytest.approx(0.5)
    assert math.isnan(use(samples.assign(places=0)))
    written = write_capacity(samples, tmp_path)
    text = "".join(ElementTree.parse(written).getroot().itertext())
    assert "50%" in text
    assert "nodes" in text


def test_a_long_run_is_kept_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.monitor.timeline.MOST", 20)
    timeline = Timeline(Placement())
    for _ in range(500):
        timeline.started([])
        timeline.ended([])
    samples = timeline.samples()
    assert 10 <= len(samples) <= 21  # the last one is added
    assert samples.seconds.is_monotonic_increasing
