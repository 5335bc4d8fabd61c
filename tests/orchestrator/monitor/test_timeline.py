"""The cluster of a run over time: capacity on a real Ray, the timeline and its figure."""

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
from orchestrator.ray_cluster.capacity import (
    MAX_PENDING_TRIALS,
    check_capacity,
    max_concurrent_trials,
    require_one_host,
    slots_on,
)
from orchestrator.ray_cluster.node_watch import poll_nodes
from orchestrator.report.sections.capacity import utilization, write_capacity
from orchestrator.schedule.run_events import ChunkEnded, ChunkStarted
from orchestrator.sweep.config import Placement


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    """A local Ray with room for two trials of 2 CPUs."""
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
    ("placement", "slots"),
    [
        ({}, 12),
        ({"cpus": 3}, 3),  # 2 on the first node, 1 on the second: remainders do not add up
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
def test_slots_are_counted_on_live_nodes(placement: dict[str, Any], slots: int) -> None:
    nodes = [
        node(CPU=8, GPU=1),
        node(CPU=4, GPU=1),
        node(CPU=0),
        node(alive=False, CPU=64, GPU=8),
    ]
    assert slots_on(nodes, Placement(**placement)) == slots


def test_the_number_of_concurrent_trials_follows_the_largest_cluster_size(machine: None) -> None:
    two = Placement(cpus=2)
    assert max_concurrent_trials(two) == 2
    assert max_concurrent_trials(two, max_slots=40) == 40
    assert max_concurrent_trials(two, max_slots=1) == 2
    assert max_concurrent_trials(Placement(cpus=2, slots=7), max_slots=40) == 7
    assert (
        max_concurrent_trials(Placement(cpus=64)) == MAX_PENDING_TRIALS
    )  # none fits before it grows


def test_a_trial_that_never_fits_on_this_machine_is_refused(
    machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large = check_capacity(Path("sweep.yaml"), Placement(gpus=1))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with too_large:  # a cluster may grow
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    with check_capacity(Path("sweep.yaml"), Placement(cpus=5)):
        pass
    with (
        pytest.raises(ConfigError, match=r"sweep\.yaml: placement: .* 1 GPUs .* 5 CPUs"),
        check_capacity(Path("sweep.yaml"), Placement(gpus=1)),
    ):
        raise AssertionError("the run must not start")


def test_an_autoscaler_allows_pending_trials_but_not_a_local_store(machine: None) -> None:
    with require_one_host(Path("sweep.yaml")):
        pass
    report = {"autoscaler_report": {"active_nodes": {"ray.head.default": 1}}}
    _internal_kv_put("__autoscaling_status", json.dumps(report))
    try:
        assert max_concurrent_trials(Placement(cpus=2)) == MAX_PENDING_TRIALS
        with (
            pytest.raises(ConfigError, match=r"sweep\.yaml: placement\.store = local"),
            require_one_host(Path("sweep.yaml")),
        ):
            raise AssertionError("the run must not start")
    finally:
        _internal_kv_del("__autoscaling_status")


def test_a_timeline_covers_a_run_from_start_to_end(machine: None, tmp_path: Path) -> None:
    timeline = Timeline(Placement(cpus=2))
    assert timeline.write(tmp_path) == ""
    assert not list(tmp_path.iterdir())
    with poll_nodes(timeline.observe_nodes):
        for event in (*[ChunkStarted("s", [])] * 2, *[ChunkEnded("s", [])] * 2):
            timeline.on_event(event)
            time.sleep(0.005)  # samples have a resolution of a millisecond
    summary = timeline.write(tmp_path)
    assert summary.startswith("1 node, slots busy ")
    samples = pd.read_csv(tmp_path / "capacity.csv")
    assert list(samples.columns) == ["seconds", "nodes", "slots", "busy"]
    assert list(samples.busy) == [0, 1, 2, 1, 0, 0]
    assert set(samples.nodes) == {1}
    assert set(samples.slots) == {2}
    assert samples.seconds.is_monotonic_increasing


def test_utilization_is_the_busy_share_of_slot_time(tmp_path: Path) -> None:
    """2 slots for 10 s, 4 for 10 s: 60 slot-seconds, of which 1 x 10 + 2 x 10 were busy."""
    samples = pd.DataFrame(
        {"seconds": [0, 10, 20], "nodes": [1, 2, 1], "slots": [2, 4, 0], "busy": [1, 2, 0]}
    )
    assert utilization(samples) == pytest.approx(0.5)
    assert math.isnan(utilization(samples.assign(slots=0)))
    figure = write_capacity(samples, tmp_path)
    text = "".join(ElementTree.parse(figure).getroot().itertext())
    assert "50%" in text
    assert "nodes" in text


def test_the_number_of_samples_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.monitor.timeline.MAX_SAMPLES", 20)
    timeline = Timeline(Placement())
    for _ in range(500):
        timeline.on_event(ChunkStarted("s", []))
        timeline.on_event(ChunkEnded("s", []))
    samples = timeline.samples()
    assert 10 <= len(samples) <= 21  # plus the last one
    assert samples.seconds.is_monotonic_increasing
