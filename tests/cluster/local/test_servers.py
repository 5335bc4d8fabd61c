"""Local services as processes: found again, private, stopped individually, without losing data."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.errors import ServiceError
from cluster.local import processes, servers
from orchestrator.store.s3 import S3ObjectStore, StoreAddress


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose name has spaces and a comma, with the partial database of a first start that
    was killed while MLflow created its tables."""
    folder = tmp_path_factory.mktemp("local") / "a root, with commas"
    (folder / "mlflow").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)
    (folder / "mlflow" / "mlflow.db").write_bytes(b"half a database")
    yield folder
    servers.stop_services(folder)


def open_store(services: servers.Services, monkeypatch: pytest.MonkeyPatch) -> S3ObjectStore:
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    return S3ObjectStore(StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint))


def listening_addresses(process: psutil.Process) -> set[str]:
    """Return the addresses on which a process listens."""
    return {
        connection.laddr.ip
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def identity(root: Path) -> str:
    return str(json.loads((root / "services.json").read_text())["identity"])


def test_services_outlive_the_process_that_started_them_and_are_found_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = (
        "import os, signal, sys; from pathlib import Path; from cluster.local import servers;"
        "servers.start_services(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", starter, str(root)])
    assert killed.returncode == -signal.SIGKILL

    services = servers.start_services(root)
    assert services.started == ()
    open_store(services, monkeypatch).probe()
    with urllib.request.urlopen(f"{services.mlflow_uri}/health", timeout=10) as reply:
        assert reply.status == 200


def test_services_listen_on_this_machine_only(root: Path) -> None:
    servers.start_services(root)
    for name in servers.SERVICES:
        running = processes.find_processes(f"{identity(root)}-{name}")
        assert running
        assert set().union(*map(listening_addresses, running)) == {"127.0.0.1"}


def test_secrets_are_readable_by_this_user_only_and_not_shown(root: Path) -> None:
    services = servers.start_services(root, names=["s3"])
    for path in (root, root / "credentials.json", root / "services.json"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert services.secret_key not in repr(services)
    for process in processes.find_processes(f"{identity(root)}-s3"):
        assert not any(services.secret_key in argument for argument in process.cmdline())


def test_stop_stops_one_service_and_keeps_its_data(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = servers.start_services(root)
    open_store(services, monkeypatch).put("key", b"survives a restart")
    assert servers.stop_services(root, names=["s3"]) == ("s3",)
    assert servers.stop_services(root, names=["s3"]) == ()

    again = servers.start_services(root)
    assert again.started == ("s3",)
    assert (again.s3_endpoint, again.access_key) == (services.s3_endpoint, services.access_key)
    assert open_store(again, monkeypatch).get("key") == b"survives a restart"


def test_a_service_moves_if_its_port_is_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = servers.start_services(root, names=["s3"])
    store = open_store(services, monkeypatch)
    store.put("moved", b"to other ports")
    servers.stop_services(root, names=["s3"])
    port = int(services.s3_endpoint.rpartition(":")[2])
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        moved = servers.start_services(root, names=["s3"])
        assert moved.s3_endpoint != services.s3_endpoint
        assert open_store(moved, monkeypatch).get("moved") == b"to other ports"


@pytest.mark.parametrize("port", ["s3", "filer"])
def test_a_service_starts_although_another_program_takes_its_port_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    with socket.socket() as other:

        def take(command: Sequence[str], **options: Any) -> None:
            monkeypatch.undo()
            number = next(a for a in command if a.startswith(f"-{port}.port=")).partition("=")[2]
            other.bind(("127.0.0.1", int(number)))
            other.listen()
            processes.launch(command, **options)

        monkeypatch.setattr(processes, "launch", take)
        started = servers.start_services(tmp_path, names=["s3"])
    open_store(started, monkeypatch).put("key", b"value")
    servers.stop_services(tmp_path)


def test_stop_does_not_stop_services_of_another_root(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, processes.TOKEN_VARIABLE: "another-root-s3"},
    )
    try:
        (tmp_path / "services.json").write_text('{"identity": "this-root", "ports": {}}')
        assert servers.stop_services(tmp_path) == ()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_stop_without_services_does_nothing(tmp_path: Path) -> None:
    assert servers.stop_services(tmp_path / "never started") == ()
    assert not (tmp_path / "never started").exists()


def test_the_error_of_a_service_that_fails_to_start_names_its_log(tmp_path: Path) -> None:
    """There is a file where the server needs a folder."""
    (tmp_path / "s3").mkdir()
    (tmp_path / "s3" / "filerldb2").write_text("in the way")
    with pytest.raises(ServiceError, match=r"local s3 service exited.*see .*s3\.log"):
        servers.start_services(tmp_path, names=["s3"])


def test_a_root_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match="cannot write here"):
        servers.start_services(tmp_path / "file" / "root")


def test_the_error_for_a_damaged_state_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text("{")
    with pytest.raises(ServiceError, match=r"services\.json: damaged"):
        servers.stop_services(tmp_path)
