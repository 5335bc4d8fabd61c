"""Where the S3 secret must not be: in anything that a run writes, says, or shows to the machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import psutil
import pytest

from cluster.local import servers as local
from tests.support.finished import Finished, tiny
from tests.support.harness import FRUGAL, Ended, Home, ended

KNOW = {"credentials.json", "inner.pem"}
"""Files that hold secrets, for this user's eyes."""


def secret(home: Home) -> str:
    stored = json.loads((home.path / "credentials.json").read_text())
    return str(stored["identities"][0]["credentials"][0]["secretKey"])


def holders(folder: Path, word: str) -> list[Path]:
    """Files below `folder` that hold `word` as it stands; what is compressed is asked of its own
    server."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in KNOW)
    return [path for path in files if word.encode() in path.read_bytes()]


def test_nothing_that_a_run_leaves_holds_the_secret(finished: Finished) -> None:
    """Its objects, MLflow's database and artifacts, reports, logs, caches, output."""
    word = secret(finished.home)
    assert finished.ended.code == 0
    assert holders(finished.home.path, word[:20]) == []
    assert word not in finished.ended.out + finished.ended.err
    with finished.home.store() as store:
        for item in store.objects.list(""):
            assert word.encode() not in store.objects.get(item.path), item.path
        services = local.start(finished.home.path)
    assert word not in repr(services)


def test_a_wrong_secret_costs_one_line(
    finished: Finished, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = local.start(finished.home.path, names=["s3"])
    remote = {"url": services.bucket_url, "endpoint": services.s3_endpoint}
    file = home.sweep(tiny() | {"placement": {"store": remote}})
    wrong = services.environment() | {"AWS_SECRET_ACCESS_KEY": "not-the-secret-at-all"}
    done = _with(home, file, wrong, monkeypatch)
    assert done.code == 2, done
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) == 1, done.err
    assert "refused the credentials" in lines[0]
    assert "AWS_SECRET_ACCESS_KEY" in lines[0]
    for word in (*wrong.values(), services.secret_key):
        assert word not in done.out + done.err
    assert not (home.path / "mlflow").exists(), "the store is asked first"


def _with(home: Home, file: Path, environment: dict[str, str], patch: pytest.MonkeyPatch) -> Ended:
    """`run` with variables that the harness keeps away otherwise."""
    patch.setattr("tests.support.harness.FOREIGN", ("RAY_", "TUNE_", "MLFLOW_", "SWEEPSTAKES_"))
    for name, value in environment.items():
        patch.setenv(name, value)
    return home.call("run", file)


@pytest.mark.slow
def test_no_command_line_and_no_log_of_ray_shows_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at all through a run: every process of it and of its servers, and Ray's session."""
    with tempfile.TemporaryDirectory(prefix="safe-") as scratch:
        monkeypatch.setenv("TMPDIR", scratch)
        run = home.start("run", home.sweep(tiny() | {"placement": FRUGAL | {"tracking": "local"}}))
        driver, lines = psutil.Process(run.pid), set[str]()
        while run.poll() is None:
            for process in psutil.process_iter():
                if _concerns(process, driver, home):
                    lines.add(_command_line(process))
            psutil.wait_procs([driver], timeout=0.5)
        done = ended(run)
        assert done.code == 0, done
        word = secret(home)
        assert len(lines) > 5
        assert not [line for line in lines if word in line]
        assert holders(Path(scratch), word) == []


def _concerns(process: psutil.Process, driver: psutil.Process, home: Home) -> bool:
    try:
        if driver in (process, *process.parents()):
            return True
        return str(home.path) in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
