"""Complete sweeps through the real command line, each in its own home folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.local import servers as local
from orchestrator.api import workspace
from orchestrator.plan.graph import Plan
from orchestrator.store.record import Record
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore
from tests.support.waits import HANG_S, wait_for

EXIT_TIMEOUT_S = 300.0
"""How long processes that a run started may take to exit after it."""
MINIMAL_PLACEMENT = {"tracking": "none", "slots": 1}
"""For sweeps so short that starting a second worker, or MLflow, would take longer than they do."""
COMMAND_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "160",
    "PYTHONFAULTHANDLER": "1",  # SIGABRT prints the stacks of all threads
}
FOREIGN_PREFIXES = ("AWS_", "MLFLOW_", "RAY_", "TUNE_", "SWEEPSTAKES_")
"""Environment variables of the tests that commands do not inherit."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Home:
    """A folder for `--home`."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of its commands, in addition to the environment of the tests."""

    def sweep(self, content: dict[str, Any]) -> Path:
        """Write a sweep file, named by the sweep."""
        file = self.path.parent / f"{content['name']}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    def plan(self, sweep: Path) -> Plan:
        return workspace.plan_sweep(sweep, self.path).plan

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start `sweepstakes --home HOME …` in its own process group."""
        command = [Path(sys.executable).with_name("sweepstakes"), "--home", self.path, *arguments]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
        return subprocess.Popen(
            [str(part) for part in command],
            env={**inherited, **COMMAND_ENVIRONMENT, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str | Path) -> CommandResult:
        """Run `sweepstakes --home HOME …` until it exits."""
        return wait_for_exit(self.start(*arguments))

    @contextmanager
    def store(self) -> Iterator[TrialStore]:
        """Open the store. Its server is started if it does not run, and is left running."""
        services = local.start_services(self.path, names=["s3"])
        with pytest.MonkeyPatch.context() as patch:
            for name, value in services.environment().items():
                patch.setenv(name, value)
            objects = S3ObjectStore(
                StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint)
            )
        yield TrialStore(objects)

    def records(self) -> dict[str, Record]:
        with self.store() as store:
            return store.records()


def wait_for_exit(process: subprocess.Popen[str]) -> CommandResult:
    """Wait for a command. If it is stuck, fail with its output and the stacks of its threads."""
    try:
        out, err = process.communicate(timeout=HANG_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, err = process.communicate()
        pytest.fail(f"{process.args!r} did not exit within {HANG_S:g} s:\n{out}\n{err}")
    return CommandResult(process.returncode, out, err)


def commit_times(records: dict[str, Record]) -> dict[str, str]:
    """Return the time of each trial's commit, which a re-run must not change."""
    return {key: record.created_at for key, record in records.items()}


def results(records: dict[str, Record]) -> dict[str, dict[str, Any]]:
    """Return all results that a key determines: ticket hashes, rewind points, scores, curves and
    checks."""
    return {key: record.result() for key, record in records.items()}


def wait_until(condition: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    """Wait until a condition is true; fail if the run exits before."""

    def still_running() -> str:
        assert run.poll() is None, wait_for_exit(run)
        return "the run goes on, but the condition does not come true"

    wait_for(condition, still_running)


def all_exit(processes: list[psutil.Process], timeout_s: float = EXIT_TIMEOUT_S) -> bool:
    """Return whether all of the processes exit in time."""
    return not psutil.wait_procs(processes, timeout=timeout_s)[1]
