"""The metrics that Prometheus scrapes from a real Ray during a run."""

from __future__ import annotations

import logging
import re
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import ray

from orchestrator.monitor.board import Board, TrialState
from orchestrator.monitor.prometheus import PrometheusObserver
from orchestrator.schedule.frontier import Frontier, WorkItem
from orchestrator.schedule.run_events import (
    ChunkEnded,
    ItemCommitted,
    ItemFailed,
    ItemStarted,
)
from tests.support.sweeps import plan_of, sweep_document
from tests.support.waits import wait_for

Scrape = Callable[[], dict[str, float]]


@pytest.fixture(scope="module")
def scrape() -> Iterator[Scrape]:
    """Returns the values of our metrics, by name and our labels."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _system_config={"metrics_report_interval_ms": 500},
    )
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def scrape() -> dict[str, float]:
        try:
            text = open_url(url, timeout=10).read().decode()
        except OSError:
            return {}
        lines = re.findall(r"^ray_(sweepstakes_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE)
        return {f"{name} {our_labels(labels)}": float(value) for name, labels, value in lines}

    yield scrape
    ray.shutdown()


def our_labels(labels: str) -> str:
    pairs = re.findall(r'(\w+)="([^"]*)"', labels)
    return " ".join(v for k, v in pairs if k in ("le", "model", "state", "sweep", "task"))


def wait_for_values(scrape: Scrape, expected: dict[str, float]) -> None:
    """Scrape until the values appear: Ray exports metrics periodically."""
    wait_for(lambda: expected.items() <= scrape().items(), scrape, poll_s=0.2)


def test_trials_by_state_and_seconds_per_trial(scrape: Scrape) -> None:
    plan = plan_of(sweep_document(schedule={"rate": 0.2, "levels": 3}, controls=[]))
    board = Board(plan)
    metrics = PrometheusObserver(board)
    frontier = Frontier(plan)
    dense, first, second, third = (frontier.item(run.key) for run in plan.training_runs())

    def set_state(item: WorkItem, state: TrialState) -> None:
        board.set_state(item.key, state)

    chunk = [dense, first, second, third]
    set_state(dense, TrialState.RUNNING)
    metrics.on_event(ItemStarted("s", dense))
    set_state(dense, TrialState.DONE)
    metrics.on_event(ItemCommitted(dense, [dense.key], 90.0))
    set_state(first, TrialState.RUNNING)
    metrics.on_event(ItemStarted("s", first))
    wait_for_values(
        scrape,
        {
            "sweepstakes_trials done test": 1,
            "sweepstakes_trials running test": 1,
            "sweepstakes_trials queued test": 2,
            "sweepstakes_trials failed test": 0,
            "sweepstakes_trial_seconds_count uniter-tiny test easy_vqa": 1,
            "sweepstakes_trial_seconds_bucket 1.0 uniter-tiny test easy_vqa": 1,
        },
    )
    set_state(first, TrialState.DONE)
    metrics.on_event(ItemCommitted(first, [first.key], 90.0))
    set_state(second, TrialState.FAILED)
    metrics.on_event(ItemFailed(second))
    metrics.on_event(ChunkEnded("s", chunk))
    metrics.on_event(
        ItemCommitted(third, [third.key], None)
    )  # by another run, so it was not timed here
    wait_for_values(
        scrape,
        {
            "sweepstakes_trials done test": 2,
            "sweepstakes_trials running test": 0,
            "sweepstakes_trials queued test": 0,
            "sweepstakes_trials failed test": 1,
            "sweepstakes_trials blocked test": 1,
            "sweepstakes_trial_seconds_count uniter-tiny test easy_vqa": 2,
        },
    )
