"""The S3 secret must not be in files or output of a run, nor in its command lines."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import psutil
import pytest

from cluster.local import servers as local
from tests.support.finished import FinishedSweep, tiny_sweep
from tests.support.harness import MINIMAL_PLACEMENT, CommandResult, Home, wait_for_exit

SECRET_FILES = {"credentials.json", "inner.pem"}
"""Files that contain secrets, readable by this user only."""


def secret(home: Home) -> str:
    stored = json.loads((home.path / "credentials.json").read_text())
    return str(stored["identities"][0]["credentials"][0]["secretKey"])


def holders(folder: Path, word: str) -> list[Path]:
    """Files below `folder` that contain `word` uncompressed."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in SECRET_FILES)
    return [path for path in files if word.encode() in path.read_bytes()]


def test_no_output_of_a_run_contains_the_secret(finished: FinishedSweep) -> None:
    """Objects, MLflow's database and artifacts, reports, logs, caches, console output.

    Objects may be compressed, so they are read through their server.
    """
    word = secret(finished.home)
    assert finished.result.code == 0
    assert holders(finished.home.path, word[:20]) == []
    assert word not in finished.result.out + finished.result.err
    with finished.home.store() as store:
        for item in store.objects.list(""):
            assert word.encode() not in store.objects.get(item.path), item.path
        services = local.start_services(finished.home.path)
    assert word not in repr(services)


def test_a_wrong_secret_gives_a_one_line_error(
    finished: FinishedSweep, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = local.start_services(finished.home.path, names=["s3"])
    remote = {"url": services.bucket_url, "endpoint": services.s3_endpoint}
    file = home.sweep(tiny_sweep() | {"placement": {"store": remote}})
    wrong = services.environment() | {"AWS_SECRET_ACCESS_KEY": "not-the-secret-at-all"}
    done = _with(home, file, wrong, monkeypatch)
    assert done.code == 2, done
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert len(lines) == 1, done.err
    assert "refused the credentials" in lines[0]
    assert "AWS_SECRET_ACCESS_KEY" in lines[0]
    for word in (*wrong.values(), services.secret_key):
        assert word not in done.out + done.err
    assert not (home.path / "mlflow").exists(), "the store is checked first"


def _with(
    home: Home, file: Path, environment: dict[str, str], patch: pytest.MonkeyPatch
) -> CommandResult:
    """`run` with variables that the harness would not pass on."""
    patch.setattr(
        "tests.support.harness.FOREIGN_PREFIXES", ("RAY_", "TUNE_", "MLFLOW_", "SWEEPSTAKES_")
    )
    for name, value in environment.items():
        patch.setenv(name, value)
    return home.run("run", file)


@pytest.mark.slow
def test_no_command_line_and_no_log_of_ray_contains_the_secret(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked during a run: all of its processes and servers, and Ray's session folder."""
    with tempfile.TemporaryDirectory(prefix="safe-") as scratch:
        monkeypatch.setenv("TMPDIR", scratch)
        run = home.start(
            "run",
            home.sweep(tiny_sweep() | {"placement": MINIMAL_PLACEMENT | {"tracking": "local"}}),
        )
        driver, lines = psutil.Process(run.pid), set[str]()
        while run.poll() is None:
            for process in psutil.process_iter():
                if _belongs_to_run(process, driver, home):
                    lines.add(_command_line(process))
            psutil.wait_procs([driver], timeout=0.5)
        done = wait_for_exit(run)
        assert done.code == 0, done
        word = secret(home)
        assert len(lines) > 5
        assert not [line for line in lines if word in line]
        assert holders(Path(scratch), word) == []


def _belongs_to_run(process: psutil.Process, driver: psutil.Process, home: Home) -> bool:
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
