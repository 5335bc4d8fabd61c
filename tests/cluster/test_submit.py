"""The files and variables that a job gets, and the errors if no cluster accepts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package

from cluster import submit
from cluster.errors import ServiceError
from cluster.submit import EXCLUDES, runtime_env

SECRET = "do-not-tell-anyone"


def uploaded_files(folder: Path, environment: dict[str, object], scratch: Path) -> set[str]:
    """Return the files in the archive that Ray's client makes of a job's working directory."""
    archive = scratch / "package.zip"
    excludes = environment["excludes"]
    assert isinstance(excludes, list)
    create_package(str(folder), archive, include_gitignore=True, excludes=excludes)
    return {name for name in ZipFile(archive).namelist() if not name.endswith("/")}


def test_secrets_and_ignored_files_are_not_uploaded(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    excluded = (
        *(".env", ".env.local", "auth_token", "keys/host.pem", ".aws/credentials"),
        *(".sweepstakes/credentials.json", "deep/.sweepstakes/s3/volume.dat", "excluded/s3.log"),
        *(".git/config", ".venv/bin/python", ".mypy_cache/x", "big/ignored.npz"),
    )
    included = ("sweep.yaml", "deep/sweep.yaml", "orchestrator/cli/main.py", ".gitignore")
    for name in (*excluded, *included):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("*.npz" if name == ".gitignore" else SECRET)
    environment = runtime_env(folder, ["/excluded"], {})
    assert uploaded_files(folder, environment, tmp_path) == set(included)


def test_the_environment_of_a_job_has_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    environment = runtime_env(tmp_path, [], {"VLT_DATA": "/data"})
    assert SECRET not in json.dumps(environment)
    assert environment["excludes"] == [*EXCLUDES]
    assert environment["env_vars"] == {
        "VLT_DATA": "/data",
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
    }


class _RejectingDashboard(BaseHTTPRequestHandler):
    """A dashboard that rejects every token."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"Forbidden: Invalid authentication token")

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def rejecting() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _RejectingDashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "DASHBOARD_TIMEOUT_S", 0.2)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")  # `connect_job_server` sets them; they are restored
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ServiceError, match="no Ray dashboard answers"):
            submit.connect_job_server(f"http://127.0.0.1:{port}")


def unused_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_an_unusable_cluster_gives_an_error_of_one_line(tmp_path: Path, rejecting: str) -> None:
    """The exit code is 2. Each case runs the whole command, because Ray reads the token only once
    per process."""
    sweep = "name: x\nstudies: {main: {model: uniter-tiny, task: easy_vqa}}\n"
    (tmp_path / "sweep.yaml").write_text(sweep)
    (tmp_path / "typo.yaml").write_text(sweep.replace("task", "tsak"))
    outside = tmp_path / "outside"
    outside.mkdir()
    cases = {
        ("sweep.yaml", "--address", unused_address()): "no Ray dashboard answers",
        ("sweep.yaml", "--address", "ray://head:10001"): "use http://HOST:8265",
        ("sweep.yaml", "--address", f"ray://me:{SECRET}@head"): "use http://HOST:8265",
        ("sweep.yaml", "--address", rejecting): "rejects the token",
        ("sweep.yaml", "--working-dir", str(outside)): "not in the folder that is uploaded",
        ("typo.yaml",): "studies.main.tsak is not a known key",
    }
    command = Path(sys.executable).with_name("sweepstakes")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    running = {
        arguments: subprocess.Popen(
            [command, "submit", *arguments],
            cwd=tmp_path,
            env={**environment, "RAY_AUTH_TOKEN": SECRET, "COLUMNS": "400"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in cases
    }
    for arguments, process in running.items():
        out, err = process.communicate()
        assert process.returncode == 2, (arguments, err)
        assert cases[arguments] in err
        assert len(err.splitlines()) == 1, err
        assert SECRET not in out + err
