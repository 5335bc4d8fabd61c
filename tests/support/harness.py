"""Whole sweeps through the real command line, each in a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
from orchestrator.store.s3 import S3Objects, StoreAddress
from orchestrator.store.tickets import TicketStore

PATIENCE_S = 280.0
"""A run of some twenty tiny trials takes 25 s on two idle cores."""
LINGER_S = 60.0
"""What a run started may take to end after it."""
FRUGAL = {"tracking": "none", "slots": 1}
"""A placement for sweeps so short that starting a second worker, or MLflow, would take longer."""
FOREIGN = ("AWS_", "MLFLOW_", "RAY_", "TUNE_", "SWEEPSTAKES_")


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Home:
    """A folder for `--home`."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its commands get beside the environment of the tests."""

    def sweep(self, content: dict[str, Any]) -> Path:
        """The sweep as a file, by its name."""
        file = self.path.parent / f"{content['name']}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    def plan(self, sweep: Path) -> Plan:
        return workspace.planned(sweep, self.path).plan

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """`sweepstakes --home HOME …` in a process group of its own."""
        command = [Path(sys.executable).with_name("sweepstakes"), "--home", self.path, *arguments]
        ours = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        return subprocess.Popen(
            [str(part) for part in command],
            env={**ours, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def call(self, *arguments: str | Path, patience_s: float = PATIENCE_S) -> Ended:
        """The same, to its end."""
        return ended(self.start(*arguments), patience_s)

    @contextmanager
    def store(self) -> Iterator[TicketStore]:
        """The store, its server started where it does not run; it is left running."""
        services = local.start(self.path, names=["s3"])
        with pytest.MonkeyPatch.context() as patch:
            for name, value in services.environment().items():
                patch.setenv(name, value)
            objects = S3Objects(
                StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint)
            )
        yield TicketStore(objects)

    def records(self) -> dict[str, Record]:
        with self.store() as store:
            return store.records()


def ended(process: subprocess.Popen[str], patience_s: float = PATIENCE_S) -> Ended:
    try:
        out, err = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"{process.args!r} did not end within {patience_s:g} s:\n{out}\n{err}")
    return Ended(process.returncode, out, err)


def created(records: dict[str, Record]) -> dict[str, str]:
    """When each trial was committed: what a re-run must not change."""
    return {key: record.created for key, record in records.items()}


def results(records: dict[str, Record]) -> dict[str, dict[str, Any]]:
    """All that a trial's identity decides: ticket hashes, rewind points, scores, curves, checks."""
    return {key: record.result() for key, record in records.items()}


def until(so: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    """Wait for something that the run brings about before it ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not so():
        assert run.poll() is None, ended(run)
        assert time.monotonic() < deadline, f"not so within {PATIENCE_S:g} s"
        time.sleep(0.05)


def gone(processes: list[psutil.Process], within_s: float = LINGER_S) -> bool:
    """Whether all of them end soon."""
    return not psutil.wait_procs(processes, timeout=within_s)[1]
