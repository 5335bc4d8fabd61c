"""Run one sweep until it is complete while faults are injected, and check what is left."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psutil

from orchestrator.store import paths
from orchestrator.store.maintenance import collect_garbage, verify_store
from orchestrator.store.tickets import TrialStore
from tests.support.harness import (
    EXIT_TIMEOUT_S,
    CommandResult,
    Home,
    all_exit,
    results,
    wait_for_exit,
)
from tests.support.lab import S3Testbed, sweep_content
from tests.support.s3_proxy import Request
from tests.support.waits import HANG_S

MAX_RUNS = 12
"""Per sweep. If a fault needs more, the sweep does not recover from it."""
WORKER_TITLE = "ray::ResourceTrainable"
"""The title that Ray gives to the processes of workers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a disturbed sweep."""

    faults: Counter[str]
    """Number of injected faults by kind."""
    reruns: int
    """Number of times that `sweepstakes run` was repeated."""
    incomplete: str
    """The end of the last run's output if the run failed or printed a traceback, else empty."""
    committed_twice: int
    """Trials that were committed twice."""
    redone: int
    """Trials that were executed in a run although they were committed before it."""
    duplicated: int
    """Trials that two workers executed; the store refused the second commit."""
    different: int
    """Trials that are missing, or whose result differs from the undisturbed sweep's."""
    leaked: int
    """Objects that no record needs and that garbage collection does not find."""
    damaged: int
    """Objects that `verify_store` finds damaged or missing."""
    seconds: float

    @property
    def good(self) -> bool:
        wrong = (self.committed_twice, self.redone, self.different, self.leaked, self.damaged)
        return not self.incomplete and not any(wrong)


@dataclass(slots=True)
class DisturbedSweep:
    """A sweep with its own store and home."""

    testbed: S3Testbed
    name: str
    rng: random.Random
    placement: dict[str, Any] = field(default_factory=dict)
    poison: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    """Variables for its drivers, in addition to the credentials."""
    injected: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)
    _run_starts: list[tuple[int, set[str]]] = field(default_factory=list)
    """The number of writes and the committed records at the start of each run."""
    _first_request: int = field(init=False)

    def __post_init__(self) -> None:
        self._first_request = len(self.testbed.proxy.requests)

    @property
    def home(self) -> Home:
        return Home(
            self.testbed.root / self.name / "home", {**self.testbed.credentials, **self.environment}
        )

    def start(self) -> subprocess.Popen[str]:
        """Start `sweepstakes run` for this sweep."""
        home = self.home
        home.path.mkdir(parents=True, exist_ok=True)
        placement = {
            "store": {"url": f"s3://tickets/{self.name}", "endpoint": self.testbed.endpoint},
            "tracking": "none",
            "cache": str(self.testbed.root / "cache"),
            "slots": 2,
            "checkpoint_every_s": 0.5,
        }
        content = sweep_content(poison=self.poison) | {"placement": placement | self.placement}
        self._run_starts.append((len(self.writes()), self.committed()))
        return home.start("run", home.sweep(content))

    def requests(self) -> list[Request]:
        """Return the requests of this sweep so far."""
        prefix = f"tickets/{self.name}/"
        return [
            r
            for r in self.testbed.proxy.requests[self._first_request :]
            if r.path.startswith(prefix)
        ]

    def writes(self) -> list[Request]:
        """Return the attempts to commit."""
        records = f"tickets/{self.name}/{paths.RECORDS}"
        return [r for r in self.requests() if r.method == "PUT" and r.path.startswith(records)]

    def committed(self) -> set[str]:
        """Return the paths of the committed records."""
        return {write.path for write in self.writes() if write.status in (200, 412)}

    def wait_until(self, condition: Callable[[], bool], run: subprocess.Popen[str]) -> bool:
        """Wait until the condition holds; return False if the run ends first or hangs."""
        deadline = time.monotonic() + HANG_S
        while run.poll() is None and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.02)
        return False

    def outcome(self, last: Sequence[CommandResult]) -> Outcome:
        """Check the store after all processes of the sweep have exited. `last` are the final
        runs."""
        self.testbed.proxy.disarm()
        store = self.testbed.store(self.name)
        report = verify_store(store)
        actual, expected = results(store.records()), self.testbed.baseline
        writes = self.writes()
        redone = {
            write.path
            for number, committed in self._run_starts
            for write in writes[number:]
            if write.path in committed
        }
        created, duplicated = repeated_commits(writes)
        faults = Counter(str(r.fault) for r in self.requests() if r.fault and not r.in_storm)
        return Outcome(
            faults=self.injected + faults,
            reruns=len(self._run_starts) - 1,
            incomplete="\n".join(
                failure_of(result, 1 if self.poison else 0) for result in last
            ).strip(),
            committed_twice=created,
            redone=len(redone),
            duplicated=duplicated,
            different=sum(actual.get(key) != expected.get(key) for key in {*actual, *expected}),
            leaked=len(leaked_objects(store)),
            damaged=len(report.damaged) + len(report.missing),
            seconds=time.monotonic() - self.started,
        )


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault that is injected when `after` trials are committed."""

    fault: str
    after: int
    inject: Callable[[subprocess.Popen[str]], None]
    recover: Callable[[], None] | None = None
    """Called before the sweep is run again."""


def record_baseline(testbed: S3Testbed) -> None:
    """Run the sweep undisturbed twice: first to fill the caches, then to record its results."""
    for name in ("first", "undisturbed"):
        outcome = run_until_complete(DisturbedSweep(testbed, name, random.Random(0)))
        assert not outcome.incomplete, outcome
        testbed.baseline = results(testbed.store(name).records())
        testbed.baseline_s = outcome.seconds


def run_until_complete(
    sweep: DisturbedSweep,
    injections: Sequence[Injection] = (),
    exit_timeout_s: float = EXIT_TIMEOUT_S,
) -> Outcome:
    """Run the sweep, repeatedly until it is complete, and inject the faults. All processes that a
    run started must exit within `exit_timeout_s` of the end of the last run."""
    pending = sorted(injections, key=lambda injection: injection.after)
    processes: list[psutil.Process] = []
    while True:
        run = sweep.start()
        recoveries = []
        while pending and sweep.wait_until(lambda: len(sweep.committed()) >= pending[0].after, run):
            injection = pending.pop(0)
            processes += child_processes(run)
            injection.inject(run)
            sweep.injected[injection.fault] += 1
            recoveries += [injection.recover] if injection.recover else []
        last = wait_for_exit(run)
        for recover in recoveries:
            recover()
        done = last.code == (1 if sweep.poison else 0)
        if done or len(sweep._run_starts) >= MAX_RUNS:
            break
    assert all_exit(processes, exit_timeout_s), "processes are still running"
    return sweep.outcome([last])


def run_concurrently(sweep: DisturbedSweep, drivers: int) -> Outcome:
    """Run several drivers on one store at the same time."""
    runs = [sweep.start() for _ in range(drivers)]
    sweep._run_starts[1:] = []  # none of them is a re-run
    return sweep.outcome([wait_for_exit(run) for run in runs])


def child_processes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return all running descendants of a driver."""
    try:
        return psutil.Process(run.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def worker_processes(run: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of a driver's workers."""
    actual = []
    for process in child_processes(run):
        with suppress(psutil.NoSuchProcess):
            actual += [process] if " ".join(process.cmdline()).startswith(WORKER_TITLE) else []
    return actual


def failure_of(result: CommandResult, code: int) -> str:
    """Describe how a run failed; empty if it ended with `code` and without a traceback."""
    text = result.out + result.err
    if result.code == code and "Traceback" not in text:
        return ""
    return f"exit code {result.code}: {result.err.strip()[-800:]}"


def repeated_commits(writes: list[Request]) -> tuple[int, int]:
    """Return the number of records that were created twice, and of those whose write was refused
    although every earlier write had received its reply, so that it came from another worker."""
    created: Counter[str] = Counter()
    uncertain: set[str] = set()
    refused: set[str] = set()
    for write in writes:
        created[write.path] += write.status == 200
        if write.status == 412 and write.path not in uncertain:
            refused.add(write.path)
        if write.fault is not None or write.status == 0:
            uncertain.add(write.path)
    return sum(count > 1 for count in created.values()), len(refused)


def leaked_objects(store: TrialStore) -> set[str]:
    """Return the objects that no record needs and garbage collection would never delete."""
    records = store.records()
    needed = {paths.record(key) for key in records} | {paths.log(key) for key in records}
    for record in records.values():
        needed |= {paths.ticket(record.ticket.sha256)} if record.ticket else set()
        needed |= {record.weights.path} if record.weights else set()
    garbage = collect_garbage(store, grace=timedelta(days=-1), abandoned=True, dry_run=True)
    existing = {item.path for item in store.objects.list("")}
    leaked = existing - needed - {item.path for item in garbage}
    return {path for path in leaked if not path.startswith(paths.CATALOG)}
