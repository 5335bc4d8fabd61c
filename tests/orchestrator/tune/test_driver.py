"""The driver on a real Ray, with workers that do nothing, fail, exit, or lose their store."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from orchestrator.errors import StoreUnreachable
from orchestrator.plan.graph import Plan
from orchestrator.schedule.frontier import WorkItem
from orchestrator.sweep.config import Placement
from orchestrator.tune import driver
from orchestrator.worker.protocol import Assignment, Poll, WorkResult
from tests.support.sweeps import plan_of, sweep_document

SLOTS = 2


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=SLOTS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


class FileWorker:
    """Record each process start and each attempt at an item as files in a folder."""

    def __init__(self, folder: Path, poll: Poll) -> None:
        self.folder = folder
        self.poll = poll
        (folder / f"start-{os.getpid()}").touch()

    def perform(self, assignment: Assignment) -> WorkResult:
        attempt = len(list(self.folder.glob(f"did-{assignment.trial.key}-*")))
        (self.folder / f"did-{assignment.trial.key}-{attempt}").touch()
        self.before_result(assignment, attempt)
        return WorkResult([trial.key for trial in assignment.members], 1.0)

    def before_result(self, assignment: Assignment, attempt: int) -> None: ...


class FailingWorker(FileWorker):
    """Always fails at level 2 of seed 0's chain, and exits at the first attempt at level 1 of any
    chain."""

    def before_result(self, assignment: Assignment, attempt: int) -> None:
        trial = assignment.trial
        if trial.level == 1 and attempt == 0:
            os._exit(1)
        if trial.level == 2 and trial.spec.seeds.data == 0:  # type: ignore[union-attr]
            raise ValueError("wrong value")


class DisconnectedWorker(FileWorker):
    """Loses its store at level 2."""

    def before_result(self, assignment: Assignment, attempt: int) -> None:
        if assignment.trial.level == 2:
            raise StoreUnreachable("the store is gone")


class RecordingObserver:
    def __init__(self) -> None:
        self.committed: list[str] = []
        self.failed: list[str] = []

    def chunk_started(self, chunk: list[WorkItem]) -> None: ...
    def item_started(self, item: WorkItem) -> None: ...
    def chunk_ended(self, chunk: list[WorkItem]) -> None: ...

    def item_committed(self, item: WorkItem, keys: list[str], score: float | None) -> None:
        self.committed += keys

    def item_failed(self, item: WorkItem) -> None:
        self.failed.append(item.key)


def run_with(
    plan: Plan, worker: type[FileWorker], folder: Path
) -> tuple[driver.Summary, RecordingObserver]:
    observer = RecordingObserver()
    start_worker = partial(worker, folder)
    summary = driver.run_plan(plan, set(), start_worker, Placement(slots=SLOTS), observer)
    return summary, observer


def test_every_item_runs_once_on_warm_processes(tmp_path: Path) -> None:
    """Chains and random controls: more chunks than slots, but few processes."""
    plan = plan_of(sweep_document(seed=list(range(6)), controls=["random", "random_layerwise"]))
    summary, observer = run_with(plan, FileWorker, tmp_path)
    assert sorted(observer.committed) == sorted(plan.trials)
    assert summary.finished == len(list(tmp_path.glob("did-*")))
    assert summary.failed == summary.blocked == 0
    assert len(list(tmp_path.glob("start-*"))) <= 2 * SLOTS


def test_a_run_in_another_thread_leaves_signals_to_the_main_one(tmp_path: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    plan = plan_of(sweep_document(schedule={"rate": 0.2, "levels": 1}, controls=[]))
    summaries: list[driver.Summary] = []
    thread = threading.Thread(
        target=lambda: summaries.append(run_with(plan, FileWorker, tmp_path)[0])
    )
    thread.start()
    thread.join()
    assert [summary.finished for summary in summaries] == [2]
    assert handlers == {number: signal.getsignal(number) for number in handlers}


def test_a_dead_worker_counts_as_one_failure_and_a_failed_item_blocks_its_chain(
    tmp_path: Path,
) -> None:
    plan = plan_of(sweep_document(seed=[0, 1], controls=[]))
    summary, observer = run_with(plan, FailingWorker, tmp_path)
    failing = next(
        t.key
        for t in plan.training_runs()
        if t.level == 2 and t.spec.seeds.data == 0  # type: ignore[union-attr]
    )
    # In 2 chains of 5 runs, seed 0 fails at level 2, which blocks its levels 3 and 4.
    assert (summary.finished, summary.failed, summary.blocked) == (7, 1, 2)
    assert observer.failed == [failing]
    assert "wrong value" in summary.failures[failing]
    attempts = {t.key: len(list(tmp_path.glob(f"did-{t.key}-*"))) for t in plan.training_runs()}
    assert attempts[failing] == 3
    assert {attempts[t.key] for t in plan.training_runs() if t.level == 1} == {2}
    assert {attempts[t.key] for t in plan.training_runs() if t.level == 0} == {1}


def test_a_store_outage_stops_the_run_without_a_failure(tmp_path: Path) -> None:
    plan = plan_of(sweep_document(seed=[0], controls=[]))
    summary, observer = run_with(plan, DisconnectedWorker, tmp_path)
    assert summary.outage == "the store is gone"
    assert (summary.finished, summary.failed, summary.blocked) == (2, 0, 0)
    assert not observer.failed


class UnstartableWorker(FileWorker):
    """Lacks a module on its machine."""

    def __init__(self, folder: Path, poll: Poll) -> None:
        super().__init__(folder, poll)
        raise ImportError("no module named so")


def test_workers_that_fail_to_start_fail_their_items_with_the_cause(tmp_path: Path) -> None:
    plan = plan_of(sweep_document(seed=[0], controls=[]))
    summary, observer = run_with(plan, UnstartableWorker, tmp_path)
    assert (summary.finished, summary.failed, summary.blocked) == (0, 1, 4)
    (failed,) = observer.failed
    assert "no module named so" in summary.failures[failed]
    assert len(list(tmp_path.glob("start-*"))) == 3


class StoppableWorker(FileWorker):
    """Runs at level 2 until it receives the command to stop."""

    def perform(self, assignment: Assignment) -> WorkResult:
        if assignment.trial.level != 2:
            return super().perform(assignment)
        (self.folder / "waiting").touch()
        while self.poll() != "stop":
            time.sleep(0.01)
        return WorkResult(end="stopped")


def test_the_first_signal_lets_running_trials_save_their_state(tmp_path: Path) -> None:
    plan = plan_of(sweep_document(seed=[0], controls=[]))
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    summary, _ = run_with(plan, StoppableWorker, tmp_path)
    assert summary.interrupted
    assert (summary.finished, summary.failed, summary.blocked) == (2, 0, 0)
    assert signal.getsignal(signal.SIGINT) is before


class OneItemBudget:
    """A budget that is exhausted after the first item."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exhausted(self) -> bool:
        return bool(list(self.folder.glob("did-*")))


class SlowWorker(FileWorker):
    """Gives the driver time to check the budget after each item."""

    def before_result(self, assignment: Assignment, attempt: int) -> None:
        time.sleep(0.5)


def test_an_exhausted_budget_starts_no_more_trials(tmp_path: Path) -> None:
    plan = plan_of(sweep_document(seed=[0], controls=[]))
    summary = driver.run_plan(
        *(plan, set(), partial(SlowWorker, tmp_path), Placement(slots=SLOTS)),
        RecordingObserver(),
        budget=OneItemBudget(tmp_path),
    )
    assert summary.exhausted
    assert not summary.interrupted
    assert 1 <= summary.finished < len(list(plan.training_runs()))
