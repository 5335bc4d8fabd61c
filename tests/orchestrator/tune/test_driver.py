"""The driver on a real Ray, with workers that do nothing, fail, die, or lose their store."""

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
from orchestrator.schedule.frontier import Unit
from orchestrator.sweep.config import Placement
from orchestrator.tune import driver
from orchestrator.worker.protocol import Done, Listen, Work
from tests.support.sweeps import document, plan_of

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


class Worker:
    """Notes each start of a process and each unit it performs as files in a folder."""

    def __init__(self, folder: Path, listen: Listen) -> None:
        self.folder = folder
        self.listen = listen
        (folder / f"start-{os.getpid()}").touch()

    def perform(self, work: Work) -> Done:
        attempt = len(list(self.folder.glob(f"did-{work.head.key}-*")))
        (self.folder / f"did-{work.head.key}-{attempt}").touch()
        self.misbehave(work, attempt)
        return Done([trial.key for trial in work.members], 1.0)

    def misbehave(self, work: Work, attempt: int) -> None: ...


class Poisoned(Worker):
    """Fails always at level 2 of seed 0's chain; dies the first time at level 1 of any chain."""

    def misbehave(self, work: Work, attempt: int) -> None:
        if work.head.level == 1 and attempt == 0:
            os._exit(1)
        if work.head.level == 2 and work.head.spec.seeds.data == 0:  # type: ignore[union-attr]
            raise ValueError("poison")


class Cut(Worker):
    """Its store goes away at level 2."""

    def misbehave(self, work: Work, attempt: int) -> None:
        if work.head.level == 2:
            raise StoreUnreachable("the store is gone")


class Seen:
    def __init__(self) -> None:
        self.committed_keys: list[str] = []
        self.failed_heads: list[str] = []

    def started(self, lane: list[Unit]) -> None: ...
    def begun(self, unit: Unit) -> None: ...
    def ended(self, lane: list[Unit]) -> None: ...

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        self.committed_keys += keys

    def failed(self, unit: Unit) -> None:
        self.failed_heads.append(unit.head)


def run(plan: Plan, kind: type[Worker], folder: Path) -> tuple[driver.Summary, Seen]:
    seen = Seen()
    start = partial(kind, folder)
    return driver.run(plan, set(), start, Placement(slots=SLOTS), seen), seen


def test_everything_runs_once_on_warm_processes(tmp_path: Path) -> None:
    """Chains, their controls, and leaves that wait: more lanes than slots, few processes."""
    plan = plan_of(document(seed=list(range(6)), controls=["random", "random_layerwise"]))
    summary, seen = run(plan, Worker, tmp_path)
    assert sorted(seen.committed_keys) == sorted(plan.trials)
    assert summary.finished == len(list(tmp_path.glob("did-*")))
    assert summary.failed == summary.blocked == 0
    assert len(list(tmp_path.glob("start-*"))) <= 2 * SLOTS


def test_a_dead_worker_costs_one_strike_and_a_poisoned_unit_blocks_its_chain(
    tmp_path: Path,
) -> None:
    plan = plan_of(document(seed=[0, 1], controls=[]))
    summary, seen = run(plan, Poisoned, tmp_path)
    poisoned = next(
        t.key
        for t in plan.training_runs()
        if t.level == 2 and t.spec.seeds.data == 0  # type: ignore[union-attr]
    )
    # Of 2 chains of 5 runs: seed 0 stops at level 2, with levels 3 and 4 blocked behind it.
    assert (summary.finished, summary.failed, summary.blocked) == (7, 1, 2)
    assert seen.failed_heads == [poisoned]
    assert "poison" in summary.failures[poisoned]
    attempts = {t.key: len(list(tmp_path.glob(f"did-{t.key}-*"))) for t in plan.training_runs()}
    assert attempts[poisoned] == 3
    assert {attempts[t.key] for t in plan.training_runs() if t.level == 1} == {2}
    assert {attempts[t.key] for t in plan.training_runs() if t.level == 0} == {1}


def test_a_store_that_goes_away_stops_the_run_without_a_strike(tmp_path: Path) -> None:
    plan = plan_of(document(seed=[0], controls=[]))
    summary, seen = run(plan, Cut, tmp_path)
    assert summary.outage == "the store is gone"
    assert (summary.finished, summary.failed, summary.blocked) == (2, 0, 0)
    assert not seen.failed_heads


class Unstartable(Worker):
    """Its machine lacks something."""

    def __init__(self, folder: Path, listen: Listen) -> None:
        super().__init__(folder, listen)
        raise ImportError("no module named so")


def test_workers_that_cannot_start_fail_their_units_and_say_why(tmp_path: Path) -> None:
    plan = plan_of(document(seed=[0], controls=[]))
    summary, seen = run(plan, Unstartable, tmp_path)
    assert (summary.finished, summary.failed, summary.blocked) == (0, 1, 4)
    (head,) = seen.failed_heads
    assert "no module named so" in summary.failures[head]
    assert len(list(tmp_path.glob("start-*"))) == 3


class Patient(Worker):
    """At level 2 it works until it is told to stop."""

    def perform(self, work: Work) -> Done:
        if work.head.level != 2:
            return super().perform(work)
        (self.folder / "waiting").touch()
        while self.listen() != "stop":
            time.sleep(0.01)
        return Done(ended="stopped")


def test_the_first_signal_lets_running_trials_save_their_state(tmp_path: Path) -> None:
    plan = plan_of(document(seed=[0], controls=[]))
    before = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    summary, _ = run(plan, Patient, tmp_path)
    assert summary.interrupted
    assert (summary.finished, summary.failed, summary.blocked) == (2, 0, 0)
    assert signal.getsignal(signal.SIGINT) is before


class Spent:
    """A budget that is gone once something was committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exhausted(self) -> bool:
        return bool(list(self.folder.glob("did-*")))


def test_a_spent_budget_releases_no_more_trials(tmp_path: Path) -> None:
    plan = plan_of(document(seed=[0], controls=[]))
    start = partial(Slow, tmp_path)
    meter = Spent(tmp_path)
    summary = driver.run(plan, set(), start, Placement(slots=SLOTS), Seen(), meter=meter)
    assert summary.exhausted
    assert not summary.interrupted
    assert 1 <= summary.finished < len(list(plan.training_runs()))


class Slow(Worker):
    """Leaves the driver time to think after each unit."""

    def misbehave(self, work: Work, attempt: int) -> None:
        time.sleep(0.5)
