"""Sweeps as jobs on a real Ray head: submitted, followed, stopped, resumed and refused."""

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
from orchestrator.store.tickets import TrialStore
from tests.support import own_files
from tests.support.fake_cluster import FakeCluster, ray_cluster
from tests.support.finished import tiny_sweep
from tests.support.harness import (
    FOREIGN_PREFIXES,
    MINIMAL_PLACEMENT,
    Home,
    commit_times,
    results,
    wait_for_exit,
    wait_until,
)

pytestmark = pytest.mark.slow

STEPS = 1500
"""Some fifteen seconds on an idle core after the end of the quick chain, so that a stop interrupts
the run."""

CHECKPOINT_ONLY_AT_STOP = {"checkpoint_every_s": 1e6}


@dataclass(frozen=True, slots=True)
class Site:
    """A head, a folder to submit from, and the home of its jobs."""

    head: FakeCluster
    folder: Path
    home: Home

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command of the virtual environment in the folder of the sweeps."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
        return subprocess.Popen(
            [str(Path(sys.executable).with_name(command[0])), *command[1:]],
            cwd=self.folder,
            env={**inherited, **self.head.environment(), "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def submit(self, sweep: Path, *options: str) -> subprocess.Popen[str]:
        address = ("--address", self.head.dashboard)
        return self.start("sweepstakes", "submit", sweep.name, *address, *options)

    def stop_jobs(self) -> None:
        """Stop every job as `ray job stop` does, without its start-up time."""
        client = self.client()
        for job in self.running_jobs():
            client.stop_job(job)

    def running_jobs(self) -> list[str]:
        jobs = self.client().list_jobs()
        return [job.submission_id for job in jobs if not job.status.is_terminal()]

    def client(self) -> JobSubmissionClient:
        return JobSubmissionClient(self.head.dashboard, headers=self.head.headers())


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    user = root / "user"
    folder = root / "project"
    for made in (user, folder):
        made.mkdir()
    home = Home(user / ".sweepstakes")
    with ray_cluster(cpus=2, environment={"HOME": str(user)}) as head:
        yield Site(head, folder, home)
    local.stop_services(home.path)


@pytest.fixture
def site(shared_site: Site) -> Iterator[Site]:
    """The shared site. Jobs that are left at the end are stopped."""
    yield shared_site
    shared_site.stop_jobs()
    while shared_site.running_jobs():
        time.sleep(0.2)


def long_sweep(name: str, seed: int) -> dict[str, Any]:
    """A quick chain, and a dense run of `STEPS` steps."""
    content = tiny_sweep() | {
        "name": name,
        "placement": {"tracking": "none", **CHECKPOINT_ONLY_AT_STOP},
    }
    study = content["studies"]["main"] | {"rewind": 0, "controls": [], "seed": seed}
    content["recipes"]["long"] = content["recipes"]["four"] | {"steps": STEPS}
    content["studies"] = {
        "quick": study | {"schedule": {"rate": 0.3, "levels": 1}},
        "long": study | {"recipe": "long", "schedule": {"levels": 0}},
    }
    return content


def sweep(site: Site, content: dict[str, Any]) -> Path:
    return Home(site.folder / "home").sweep(content)


def unfinished(store: TrialStore) -> set[str]:
    """Trials with a checkpoint and without a record."""
    return {paths.stem(item.path) for item in store.objects.list(paths.CHECKPOINTS)} - store.keys()


def test_a_sweep_runs_with_ray_job_submit(site: Site) -> None:
    """`ray job submit --working-dir . -- sweepstakes run SWEEP`.

    The store is in the home folder, where the next job finds it, and not in the job's copy of the
    working directory.
    """
    name = sweep(site, tiny_sweep() | {"placement": MINIMAL_PLACEMENT}).name
    address = ("--address", site.head.dashboard)
    command = ("--working-dir", ".", "--", "sweepstakes", "run", name)
    done = wait_for_exit(site.start("ray", "job", "submit", *address, *command))
    assert done.code == 0, done
    assert set(site.home.plan(site.folder / name).trials) == set(site.home.records())
    assert (site.home.path / "reports" / "tiny" / "report.html").exists()


def test_the_exit_code_is_that_of_the_job(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable in a path has the same value in the job."""
    monkeypatch.setenv("NOWHERE", "/no")
    broken = long_sweep("broken", 3)
    broken["models"] = {"uniter-tiny": {"architecture": "uniter", "weights": "$NOWHERE/such.pt"}}
    result = wait_for_exit(site.submit(sweep(site, broken)))
    assert result.code == 2, result
    assert "/no/such.pt" in result.out


def test_a_file_of_the_users_own_travels_with_the_job(site: Site) -> None:
    content = own_files.write_own_files(site.folder)
    content |= {"name": "own", "placement": MINIMAL_PLACEMENT}
    content["pruners"]["first"]["module"] = "first_weights.py"
    content["tasks"]["mine"]["module"] = "my_task.py"
    result = wait_for_exit(site.submit(sweep(site, content)))
    assert result.code == 0, result
    specs = [record.spec for record in site.home.records().values()]
    made = [spec for spec in specs if spec.get("method") == "first_weights"]
    assert [len(spec["source"]) for spec in made] == [64]
    runs = [spec for spec in specs if spec["kind"] == "train" and spec["task"]["name"] == "my_task"]
    assert len(runs) == 3  # dense, under the ticket, and under a random one


def test_a_detached_job_keeps_running(site: Site) -> None:
    detached = wait_for_exit(site.submit(sweep(site, long_sweep("left", 1)), "--detach"))
    assert detached.code == 0, detached
    job = re.search(r"raysubmit_\w+", detached.out)
    assert job
    assert f"ray job stop {job[0]} --address {site.head.dashboard}" in detached.out
    assert site.running_jobs() == [job[0]]


def test_ctrl_c_leaves_the_job_running(site: Site) -> None:
    following = site.submit(sweep(site, long_sweep("followed", 2)))
    assert following.stdout is not None
    while "trials for" not in (line := following.stdout.readline()):  # an output line of the job
        assert line, wait_for_exit(following)
    os.killpg(following.pid, signal.SIGINT)
    left = wait_for_exit(following)
    assert left.code == 130, left
    assert "ray job logs" in left.out
    assert "Traceback" not in left.err
    assert site.running_jobs()


def test_a_stopped_job_loses_nothing_and_another_resumes_it(site: Site, home: Home) -> None:
    """The local store on the head must outlast the signal that the job's processes receive."""
    file = sweep(site, long_sweep("stopped", 9))
    trials = site.home.plan(file).trials
    with site.home.store() as store:
        following = site.submit(file)
        wait_until(lambda: len(store.keys() & set(trials)) == len(trials) - 1, following)
        before = commit_times(store.records())
        site.stop_jobs()
        outcome = wait_for_exit(following)
    assert outcome.code == 130, outcome
    assert "stopping: the running trials save their state" in outcome.out
    with site.home.store() as store:  # the job stopped the server at its end
        assert unfinished(store), outcome
        assert before.items() <= commit_times(store.records()).items()

    again = wait_for_exit(site.submit(file))
    assert again.code == 0, again
    records = site.home.records()
    assert before.items() <= commit_times(records).items(), "a committed trial was run again"
    undisturbed = home.run("run", file)
    assert undisturbed.code == 0, undisturbed
    assert results({key: records[key] for key in trials}) == results(home.records())
