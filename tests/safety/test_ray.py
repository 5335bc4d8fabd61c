"""Security of a local Ray, and of joining a cluster with another token."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_cluster import ray_cluster
from tests.support.harness import FOREIGN_PREFIXES

JOIN = """
import json, os, psutil, ray
from orchestrator.errors import InputError
from orchestrator.ray_cluster.join import joined_cluster

def listening_addresses(process):
    connections = process.net_connections("tcp")
    return [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]

@ray.remote
def inspect_worker():
    return os.environ["RAY_AUTH_MODE"], listening_addresses(psutil.Process())

try:
    with joined_cluster():
        mode, addresses = ray.get(inspect_worker.remote())
        driver = psutil.Process()
        processes = [driver, *driver.children(recursive=True)]
        arguments = " ".join(arg for process in processes for arg in process.cmdline())
        addresses += [ip for process in processes for ip in listening_addresses(process)]
        result = {"mode": mode, "addresses": sorted(set(addresses)), "arguments": arguments}
        print(json.dumps(result))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


def join(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
    command = [sys.executable, "-c", JOIN]
    env = {**clean, **environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="safe-") as name:
        yield Path(name)


def test_a_local_ray_is_closed_to_other_users(folder: Path) -> None:
    """This also holds if Ray was used before and left a token and folders that others can read."""
    token = folder / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("cd" * 32)
    token.chmod(0o644)
    process = join(HOME=str(folder), RAY_TMPDIR=str(folder))
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert result["mode"] == "token"
    assert set(result["addresses"]) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert "cd" * 32 not in result["arguments"] + process.stderr
    (private_folder,) = folder.glob("sweepstakes-*")
    for path in (token, private_folder):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    sessions = list((private_folder / "ray").glob("session_2*"))
    assert sessions, "folders that Ray opens to all users must be inside"


def test_a_folder_of_another_user_is_not_used(folder: Path) -> None:
    (folder / f"sweepstakes-{os.getuid()}").symlink_to(folder)
    process = join(HOME=str(folder), RAY_TMPDIR=str(folder))
    assert "set RAY_TMPDIR" in json.loads(process.stdout)["error"]


def test_an_address_without_a_cluster_is_reported_at_once() -> None:
    process = join(RAY_ADDRESS="127.0.0.1:9")
    assert "no answer" in json.loads(process.stdout)["error"]
    assert not process.stderr


@pytest.mark.slow
def test_a_wrong_or_missing_token_gives_a_one_line_error(folder: Path) -> None:
    """Ray retries for 20 s with a warning each second; none of that is printed."""
    wrong_token = folder / "token"
    wrong_token.write_text("ef" * 32)
    with ray_cluster(cpus=1) as head:
        for mode in ("token", "disabled"):
            process = join(
                RAY_ADDRESS=head.address, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN_PATH=str(wrong_token)
            )
            assert "the cluster refuses the token" in json.loads(process.stdout)["error"]
            assert not process.stderr
        joined = join(RAY_ADDRESS=head.address, **head.environment())
        assert json.loads(joined.stdout)["mode"] == "token", joined
