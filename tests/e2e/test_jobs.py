"""Sweeps as jobs on a real Ray head: as typed, followed, stopped, submitted again, refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray.job_submission import JobSubmissionClient

from cluster.local import servers as local
from orchestrator.store import paths
from orchestrator.store.tickets import TicketStore
from tests.support.fake_cluster import Cluster, cluster
from tests.support.finished import tiny
from tests.support.harness import FOREIGN, FRUGAL, Home, created, ended, results, until

pytestmark = pytest.mark.slow

STEPS = 1500
"""Some fifteen seconds on an idle core from the quick chain's end, so that a stop meets the run at
work."""

ONLY_AT_A_STOP = {"checkpoint_every_s": 1e6}


@dataclass(frozen=True, slots=True)
class Site:
    """A head, a folder to submit from, and the home that its jobs have."""

    head: Cluster
    folder: Path
    home: Home

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command of the virtual environment, where the sweeps lie."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        return subprocess.Popen(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            cwd=self.folder,
            env={**ours, **self.head.environment(), "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def submit(self, sweep: Path, *options: str) -> subprocess.Popen[str]:
        address = ("--address", self.head.dashboard)
        return self.start("sweepstakes", "submit", sweep.name, *address, *options)

    def stop(self) -> None:
        """What `ray job stop` asks of the server, without its start-up time, for every job."""
        client = self.client()
        for job in self.running():
            client.stop_job(job)

    def running(self) -> list[str]:
        jobs = self.client().list_jobs()
        return [job.submission_id for job in jobs if not job.status.is_terminal()]

    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.head.dashboard, headers=self.head.headers())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    user = root / "user"
    folder = root / "project"
    for made in (user, folder):
        made.mkdir()
    home = Home(user / ".sweepstakes")
    with cluster(cpus=2, environment={"HOME": str(user)}) as head:
        yield Site(head, folder, home)
    local.stop(home.path)


@pytest.fixture
def site(place: Site) -> Iterator[Site]:
    """That place, without any job left over at the end."""
    yield place
    place.stop()
    while place.running():
        time.sleep(0.2)


def long(name: str, seed: int) -> dict[str, Any]:
    """A quick chain, and beside it a dense run of `STEPS` steps."""
    content = tiny() | {"name": name, "placement": {"tracking": "none", **ONLY_AT_A_STOP}}
    study = content["studies"]["main"] | {"rewind": 0, "controls": [], "seed": seed}
    content["recipes"]["long"] = content["recipes"]["four"] | {"steps": STEPS}
    content["studies"] = {
        "quick": study | {"schedule": {"rate": 0.3, "levels": 1}},
        "long": study | {"recipe": "long", "schedule": {"levels": 0}},
    }
    return content


def sweep(site: Site, content: dict[str, Any]) -> Path:
    return Home(site.folder / "home").sweep(content)


def half_done(store: TicketStore) -> set[str]:
    """Trials that have left a checkpoint and no record."""
    return {paths.stem(item.path) for item in store.objects.list(paths.CHECKPOINTS)} - store.keys()


def test_a_sweep_runs_as_typed(site: Site) -> None:
    """`ray job submit --working-dir . -- sweepstakes run SWEEP`; its store is where the next finds
    it, and not in the job's copy of the folder."""
    name = sweep(site, tiny() | {"placement": FRUGAL}).name
    address = ("--address", site.head.dashboard)
    command = ("--working-dir", ".", "--", "sweepstakes", "run", name)
    done = ended(site.start("ray", "job", "submit", *address, *command))
    assert done.code == 0, done
    assert set(site.home.plan(site.folder / name).trials) == set(site.home.records())
    assert (site.home.path / "reports" / "tiny" / "report.html").exists()


def test_an_outcome_is_an_exit_code(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a path means there what it means here."""
    monkeypatch.setenv("NOWHERE", "/no")
    broken = long("broken", 3)
    broken["models"] = {"uniter-tiny": {"architecture": "uniter", "weights": "$NOWHERE/such.pt"}}
    refused = ended(site.submit(sweep(site, broken)))
    assert refused.code == 2, refused
    assert "/no/such.pt" in refused.out


def test_a_detached_job_is_left_alone(site: Site) -> None:
    left = ended(site.submit(sweep(site, long("left", 1)), "--detach"))
    assert left.code == 0, left
    job = re.search(r"raysubmit_\w+", left.out)
    assert job
    assert f"ray job stop {job[0]} --address {site.head.dashboard}" in left.out
    assert site.running() == [job[0]]


def test_ctrl_c_leaves_the_job_running(site: Site) -> None:
    following = site.submit(sweep(site, long("followed", 2)))
    assert following.stdout is not None
    while "trials for" not in (line := following.stdout.readline()):  # it follows the job's output
        assert line, ended(following)
    os.killpg(following.pid, signal.SIGINT)
    left = ended(following)
    assert left.code == 130, left
    assert "ray job logs" in left.out
    assert "Traceback" not in left.err
    assert site.running()


def test_a_stopped_job_loses_nothing_and_another_goes_on(site: Site, home: Home) -> None:
    """Its store is the head's own: it must outlast the signal that the job's processes get."""
    file = sweep(site, long("stopped", 9))
    trials = site.home.plan(file).trials
    with site.home.store() as store:
        following = site.submit(file)
        until(lambda: len(store.keys() & set(trials)) == len(trials) - 1, following)
        before = created(store.records())
        site.stop()
        outcome = ended(following)
    assert outcome.code == 130, outcome
    assert "stopping: the running trials save their state" in outcome.out
    with site.home.store() as store:  # the job stopped the server at its end
        assert half_done(store), outcome
        assert before.items() <= created(store.records()).items()

    again = ended(site.submit(file))
    assert again.code == 0, again
    records = site.home.records()
    assert before.items() <= created(records).items(), "a committed trial was run again"
    undisturbed = home.call("run", file)
    assert undisturbed.code == 0, undisturbed
    assert results({key: records[key] for key in trials}) == results(home.records())
