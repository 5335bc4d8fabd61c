"""The local services as processes: found again, private, ended alone, with their data kept."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import ServiceError
from cluster.local import processes
from cluster.local import servers as local
from orchestrator.store.s3 import S3Objects, StoreAddress


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A name with what breaks command lines, and what a first start leaves that was killed while
    MLflow made its tables."""
    folder = tmp_path_factory.mktemp("local") / "a root, with commas"
    (folder / "mlflow").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (folder / "mlflow" / "mlflow.db").write_bytes(b"half a database")
    yield folder
    local.stop(folder)


def objects(services: local.Services, monkeypatch: pytest.MonkeyPatch) -> S3Objects:
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    return S3Objects(StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint))


def addresses_of(process: psutil.Process) -> set[str]:
    """The addresses on which a process listens."""
    return {
        connection.laddr.ip
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def identity(root: Path) -> str:
    return str(json.loads((root / "services.json").read_text())["identity"])


def test_services_outlive_their_starter_and_are_found_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = (
        "import os, signal, sys; from pathlib import Path; from cluster import local;"
        "local.start(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", starter, str(root)])
    assert killed.returncode == -signal.SIGKILL

    found = local.start(root)
    assert found.started == ()
    objects(found, monkeypatch).probe()
    with urllib.request.urlopen(f"{found.mlflow_uri}/health", timeout=10) as reply:
        assert reply.status == 200


def test_they_listen_on_this_machine_only(root: Path) -> None:
    local.start(root)
    for name in local.NAMES:
        running = processes.alive(f"{identity(root)}-{name}")
        assert running
        assert set().union(*map(addresses_of, running)) == {"127.0.0.1"}


def test_secrets_are_for_this_user_alone_and_not_shown(root: Path) -> None:
    services = local.start(root, names=["s3"])
    for path in (root, root / "credentials.json", root / "services.json"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert services.secret_key not in repr(services)
    for process in processes.alive(f"{identity(root)}-s3"):
        assert not any(services.secret_key in word for word in process.cmdline())


def test_stop_ends_one_service_and_the_data_stay(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = local.start(root)
    objects(services, monkeypatch).put("kept", b"over a restart")
    assert local.stop(root, names=["s3"]) == ("s3",)
    assert local.stop(root, names=["s3"]) == ()

    again = local.start(root)
    assert again.started == ("s3",)
    assert (again.s3_endpoint, again.access_key) == (services.s3_endpoint, services.access_key)
    assert objects(again, monkeypatch).get("kept") == b"over a restart"


def test_taken_ports_are_left_to_their_owner(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = local.start(root, names=["s3"])
    store = objects(services, monkeypatch)
    store.put("moved", b"to other ports")
    local.stop(root, names=["s3"])
    port = int(services.s3_endpoint.rpartition(":")[2])
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        moved = local.start(root, names=["s3"])
        assert moved.s3_endpoint != services.s3_endpoint
        assert objects(moved, monkeypatch).get("moved") == b"to other ports"


def test_stop_leaves_a_stranger_alone_that_has_an_old_process_number(tmp_path: Path) -> None:
    """Whoever runs the same program for another root is no business of ours."""
    stranger = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, processes.TOKEN: "another-root-s3"},
    )
    try:
        (tmp_path / "services.json").write_text('{"identity": "this-root", "ports": {}}')
        assert local.stop(tmp_path) == ()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_nothing_to_stop(tmp_path: Path) -> None:
    assert local.stop(tmp_path / "never started") == ()
    assert not (tmp_path / "never started").exists()


def test_a_service_that_dies_at_its_start_says_why(tmp_path: Path) -> None:
    """A file where the server wants a folder."""
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "filerldb2").write_text("in the way")
    with pytest.raises(ServiceError, match=r"local s3 service ended.*see .*s3\.log"):
        local.start(tmp_path, names=["s3"])


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="cannot write here"):
        local.start(tmp_path / "file" / "root")


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text("{")
    with pytest.raises(ServiceError, match=r"services\.json: damaged"):
        local.stop(tmp_path)
