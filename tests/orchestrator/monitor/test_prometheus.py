"""What Prometheus gets of a run, scraped from a real Ray."""

from __future__ import annotations

import logging
import re
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import ray

from orchestrator.monitor.board import Board, Mark
from orchestrator.monitor.prometheus import Metrics
from orchestrator.schedule.frontier import Frontier, Unit
from tests.support.sweeps import document, plan_of

PATIENCE_S = 90.0
"""Ray's agent, which answers the scrapes, takes 5 s to start on an idle machine."""

Scrape = Callable[[], dict[str, float]]


@pytest.fixture(scope="module")
def scrape() -> Iterator[Scrape]:
    """The values of our metrics, by name and our own labels."""
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
        return {f"{name} {own(labels)}": float(value) for name, labels, value in lines}

    yield scrape
    ray.shutdown()


def own(labels: str) -> str:
    found = re.findall(r'(\w+)="([^"]*)"', labels)
    return " ".join(v for k, v in found if k in ("le", "model", "state", "sweep", "task"))


def until(scrape: Scrape, expected: dict[str, float]) -> None:
    """Ray hands metrics on from time to time."""
    deadline = time.monotonic() + PATIENCE_S
    while not expected.items() <= (found := scrape()).items():
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_trials_by_state_and_seconds_per_trial(scrape: Scrape) -> None:
    plan = plan_of(document(schedule={"rate": 0.2, "levels": 3}, controls=[]))
    board = Board(plan)
    metrics = Metrics(board)
    frontier = Frontier(plan)
    dense, first, second, third = (frontier.unit(run.key) for run in plan.training_runs())

    def tell(unit: Unit, mark: Mark) -> None:
        board.set(unit.head, mark)

    lane = [dense, first, second, third]
    tell(dense, Mark.RUNNING)
    metrics.begun(dense)
    tell(dense, Mark.DONE)
    metrics.committed(dense, [dense.head], 90.0)
    tell(first, Mark.RUNNING)
    metrics.begun(first)
    until(
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
    tell(first, Mark.DONE)
    metrics.committed(first, [first.head], 90.0)
    tell(second, Mark.FAILED)
    metrics.failed(second)
    metrics.ended(lane)
    metrics.committed(third, [third.head], None)  # by another run: nobody here measured it
    until(
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
