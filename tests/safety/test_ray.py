"""The Ray of this machine's own, and joining a cluster with another token."""

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

from tests.support.fake_cluster import cluster
from tests.support.harness import FOREIGN

JOIN = """
import json, os, psutil, ray
from orchestrator.errors import InputError
from orchestrator.ray_cluster.join import joined

def heard(process):
    found = process.net_connections("tcp")
    return [c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN]

@ray.remote
def there():
    return os.environ["RAY_AUTH_MODE"], heard(psutil.Process())

try:
    with joined():
        mode, inside = ray.get(there.remote())
        me = psutil.Process()
        family = [me, *me.children(recursive=True)]
        said = " ".join(word for process in family for word in process.cmdline())
        addresses = inside + [ip for process in family for ip in heard(process)]
        print(json.dumps({"mode": mode, "addresses": sorted(set(addresses)), "said": said}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


def join(**environment: str) -> subprocess.CompletedProcess[str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    command = [sys.executable, "-c", JOIN]
    every = {**ours, **environment, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=every, capture_output=True, text=True, timeout=240)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the names of Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="safe-") as folder:
        yield Path(folder)


def test_a_ray_of_our_own_is_closed_to_everybody_else(short: Path) -> None:
    """Also where Ray was used before, whose token and folders are open."""
    token = short / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("cd" * 32)
    token.chmod(0o644)
    done = join(HOME=str(short), RAY_TMPDIR=str(short))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["mode"] == "token"
    assert set(told["addresses"]) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert "cd" * 32 not in told["said"] + done.stderr
    (folder,) = short.glob("sweepstakes-*")
    for path in (token, folder):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert list((folder / "ray").glob("session_2*")), "what Ray opens to all is inside"


def test_a_folder_of_somebody_else_is_not_used(short: Path) -> None:
    (short / f"sweepstakes-{os.getuid()}").symlink_to(short)
    done = join(HOME=str(short), RAY_TMPDIR=str(short))
    assert "set RAY_TMPDIR" in json.loads(done.stdout)["error"]


def test_nobody_there_is_told_at_once() -> None:
    done = join(RAY_ADDRESS="127.0.0.1:9")
    assert "nobody answers there" in json.loads(done.stdout)["error"]
    assert not done.stderr


@pytest.mark.slow
def test_a_wrong_token_or_none_costs_one_line(short: Path) -> None:
    """Ray tries for 20 s, and warns each second; none of that is shown."""
    wrong = short / "token"
    wrong.write_text("ef" * 32)
    with cluster(cpus=1) as head:
        for mode in ("token", "disabled"):
            done = join(
                RAY_ADDRESS=head.address, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN_PATH=str(wrong)
            )
            assert "the cluster refuses the token" in json.loads(done.stdout)["error"]
            assert not done.stderr
        let_in = join(RAY_ADDRESS=head.address, **head.environment())
        assert json.loads(let_in.stdout)["mode"] == "token", let_in
