"""The driver on a real Ray, with workers that do nothing, fail, exit, or lose their store."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import pytest
import ray

from orchestrator.errors import RunError, StoreUnreachable
from orchestrator.plan.counts import count_plan
from orchestrator.plan.graph import Plan
from orchestrator.schedule.frontier import Frontier, WorkState
from orchestrator.schedule.run_events import ItemCommitted, ItemFailed, RunEvent
from orchestrator.schedule.strategy import ALL, Strategy, skipped_trials
from orchestrator.sweep.config import Placement
from orchestrator.tune import driver
from orchestrator.worker.protocol import Assignment, Poll, WorkResult
from tests.support.sweeps import plan_of, sweep_document
from trainables.errors import TicketMismatch

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
            raise RuntimeError("the device does not respond")


class DisconnectedWorker(FileWorker):
    """Loses its store at level 2."""

    def before_result(self, assignment: Assignment, attempt: int) -> None:
        if assignment.trial.level == 2:
            raise StoreUnreachable("the store is gone")


class RecordingObserver:
    def __init__(self) -> None:
        self.committed: list[str] = []
        self.failed: list[str] = []

    def on_event(self, event: RunEvent) -> None:
        match event:
            case ItemCommitted(keys=keys):
                self.committed += keys
            case ItemFailed(item=item):
                self.failed.append(item.key)


def run_with(
    plan: Plan,
    worker: type[FileWorker],
    folder: Path,
    *,
    strategy: Strategy = ALL,
    scores: Mapping[str, float] = MappingProxyType({}),
    committed: Iterable[str] = (),
) -> tuple[driver.Summary, RecordingObserver]:
    observer = RecordingObserver()
    summary = driver.run_plan(
        *(plan, set(committed), partial(worker, folder), Placement(slots=SLOTS), observer),
        strategy=strategy,
        scores=scores,
    )
    return summary, observer


def test_every_item_runs_once_on_warm_processes(tmp_path: Path) -> None:
    """Chains and random controls: more chunks than slots, but few processes."""
    plan = plan_of(sweep_document(seed=list(range(6)), controls=["random", "random_layerwise"]))
    summary, observer = run_with(plan, FileWorker, tmp_path)
    assert sorted(observer.committed) == sorted(plan.trials)
    attempts = {path.name for path in tmp_path.glob("did-*")}
    assert attempts == {f"did-{item.key}-0" for item in Frontier(plan).items}
    assert summary.finished == len(runs_of(plan)) < len(attempts)
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
    assert "does not respond" in summary.failures[failing]
    attempts = {t.key: len(list(tmp_path.glob(f"did-{t.key}-*"))) for t in plan.training_runs()}
    assert attempts[failing] == 3
    assert {attempts[t.key] for t in plan.training_runs() if t.level == 1} == {2}
    assert {attempts[t.key] for t in plan.training_runs() if t.level == 0} == {1}


class MismatchedWorker(FileWorker):
    """Meets an error at level 2 that repeats by nature."""

    def before_result(self, assignment: Assignment, attempt: int) -> None:
        if assignment.trial.level == 2:
            raise TicketMismatch("ticket 1a2b is of another model")


class OutOfRangeWorker(FileWorker):
    """Meets an error of the code at level 2, which its values decide."""

    def before_result(self, assignment: Assignment, attempt: int) -> None:
        if assignment.trial.level == 2:
            raise IndexError("index out of range in self")


@pytest.mark.parametrize("worker", [MismatchedWorker, OutOfRangeWorker])
def test_an_error_that_repeats_is_tried_once(tmp_path: Path, worker: type[FileWorker]) -> None:
    plan = plan_of(sweep_document(seed=[0], controls=[]))
    summary, observer = run_with(plan, worker, tmp_path)
    assert (summary.finished, summary.failed, summary.blocked) == (2, 1, 2)
    (failed,) = observer.failed
    assert "not retried" in summary.failures[failed]
    assert len(list(tmp_path.glob(f"did-{failed}-*"))) == 1


class FirstLosingLevel:
    """Wants each chain up to its first level whose score is below 70."""

    def wanted(self, plan: Plan, results: Mapping[str, float]) -> Iterator[str]:
        chains: dict[tuple[str, int], list[str]] = {}
        for cell in plan.cells:
            chains.setdefault((cell.curve.task, cell.curve.seed), []).append(cell.trial)
        for runs in chains.values():
            for key in runs:
                yield key
                if results.get(key, 0.0) < 70:
                    break


class ScoringWorker(FileWorker):
    """Scores 90, and 20 less at each level."""

    def perform(self, assignment: Assignment) -> WorkResult:
        result = super().perform(assignment)
        result.score = 90.0 - 20 * assignment.trial.level
        return result


class FailsAtAResult:
    def wanted(self, plan: Plan, results: Mapping[str, float]) -> Iterable[str]:
        if results:
            raise ValueError("an unexpected score")
        return [cell.trial for cell in plan.cells if cell.level < 2]


def test_a_strategy_that_fails_ends_the_run_with_an_error_of_one_line(tmp_path: Path) -> None:
    plan = plan_of(sweep_document(seed=[0, 1], controls=[]))
    with pytest.raises(RunError, match=r"^strategy FailsAtAResult: .*an unexpected score"):
        run_with(plan, ScoringWorker, tmp_path, strategy=FailsAtAResult())


def test_trials_that_no_result_makes_wanted_are_skipped_and_run_later(tmp_path: Path) -> None:
    plan = plan_of(sweep_document(seed=[0, 1], controls=[]))
    summary, observer = run_with(plan, ScoringWorker, tmp_path, strategy=FirstLosingLevel())
    levels = {plan.trials[key].level for key in observer.committed if key in runs_of(plan)}
    assert levels == {0, 1, 2}, "levels 0 and 1 pass, level 2 does not"
    assert (summary.finished, summary.skipped) == (6, 4)
    assert summary.failed == summary.blocked == 0
    scores = {key: 90.0 - 20 * plan.trials[key].level for key in observer.committed}
    again, _ = run_with(
        *(plan, ScoringWorker, tmp_path),
        strategy=FirstLosingLevel(),
        scores=scores,
        committed=observer.committed,
    )
    assert (again.finished, again.skipped) == (0, 4), "there is nothing to do"
    rest, later = run_with(plan, ScoringWorker, tmp_path, committed=observer.committed)
    assert (rest.finished, rest.skipped) == (4, 0)
    assert sorted(observer.committed + later.committed) == sorted(plan.trials)


class NoControls:
    """Wants the dense runs and the chains only."""

    def wanted(self, plan: Plan, results: Mapping[str, float]) -> Iterator[str]:
        return (cell.trial for cell in plan.cells if cell.curve.source != "random")


def test_a_run_counts_as_its_plan_does(tmp_path: Path) -> None:
    """A replay and a ticket that needs no run are no training runs that are done or skipped."""
    plan = plan_of(sweep_document(seed=[0], controls=["random"]))
    dense = next(cell.trial for cell in plan.cells if not cell.level)
    skipped = skipped_trials(plan, {dense}, NoControls(), {})
    pools = {"uniter-tiny": {"encoder+pooler": 100}}
    counts = count_plan(plan, {dense: None}, pools, skipped)
    assert (counts.new_runs, counts.replays, counts.skipped_runs) == (4, 1, 4)
    summary, _ = run_with(plan, FileWorker, tmp_path, strategy=NoControls(), committed={dense})
    assert (summary.finished, summary.skipped) == (counts.new_runs, counts.skipped_runs)


def runs_of(plan: Plan) -> set[str]:
    return {trial.key for trial in plan.training_runs()}


def test_a_run_with_an_unaccounted_item_fails_loudly() -> None:
    plan = plan_of(sweep_document(seed=[0], controls=[]))
    runs = [trial.key for trial in plan.training_runs()]
    frontier = Frontier(plan, wanted=runs[:2])
    dense, first, *_ = (frontier.item(key) for key in runs)
    with pytest.raises(RunError, match="'waiting': 1, 'ready': 1, 'skipped': 3"):
        driver.check_settled(frontier)
    frontier.start([dense])
    frontier.fail(dense, "broken")
    driver.check_settled(frontier)
    first.state = WorkState.RUNNING  # a defect: the counts do not know it
    with pytest.raises(RunError, match="'running': 1"):
        driver.check_settled(frontier)


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
