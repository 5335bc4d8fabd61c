"""Which data is lost, and which errors are reported, if a server or a writer is killed or a disk
fails."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.local import processes
from cluster.local import servers as local
from orchestrator.errors import Damaged, StoreFull
from orchestrator.store.maintenance import collect_garbage, verify_store
from orchestrator.store.s3 import S3ObjectStore, StoreAddress, Timeouts
from orchestrator.store.tickets import TrialStore
from tests.support.small_store import SHORT_TIMEOUTS, fill_store, small_server
from tests.support.waits import wait_for

PATIENT = Timeouts(deadline_s=90.0, max_attempts=60)
NO_GRACE = timedelta(hours=-1)
"""A grace period with which garbage collection deletes new objects too."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a SeaweedFS that tests may kill or damage."""
    folder = tmp_path_factory.mktemp("disasters")
    yield folder
    local.stop_services(folder)


@pytest.fixture
def address_at_risk(root: Path, monkeypatch: pytest.MonkeyPatch) -> StoreAddress:
    services = local.start_services(root, names=["s3"])
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    return StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint)


def kill_server(root: Path) -> None:
    identity = json.loads((root / "services.json").read_text())["identity"]
    for process in processes.find_processes(f"{identity}-s3"):
        process.kill()
        process.wait(10)


def test_a_killed_server_loses_no_acknowledged_write(
    root: Path, address_at_risk: StoreAddress
) -> None:
    objects = S3ObjectStore(address_at_risk, timeouts=PATIENT)
    acknowledged: dict[str, bytes] = {}
    stop = threading.Event()

    def write(writer: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            path, data = f"killed/{writer}-{number}", os.urandom(20_000)
            objects.put_new(path, data)  # retries while the server is down
            acknowledged[path] = data

    def wait_for_more_than(count: int) -> None:
        wait_for(lambda: len(acknowledged) > count)

    writers = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(4)]
    for thread in writers:
        thread.start()
    wait_for_more_than(20)
    kill_server(root)
    before = len(acknowledged)
    restarted = local.start_services(root, names=["s3"])
    wait_for_more_than(before + len(writers))  # each may have had one answer in flight
    stop.set()
    for thread in writers:
        thread.join(90)
    assert restarted.s3_endpoint == address_at_risk.endpoint
    for path, data in acknowledged.items():
        assert objects.get(path) == data


def test_a_damaged_disk_is_distinguished_from_a_dead_server(
    root: Path, address_at_risk: StoreAddress
) -> None:
    """SeaweedFS detects the damage by its own checksum, and then never answers the read."""
    objects = S3ObjectStore(address_at_risk, timeouts=SHORT_TIMEOUTS)
    content = os.urandom(50_000)
    objects.put("damaged/object", content)
    damage(root / "s3", content)
    with pytest.raises(Damaged, match=r"damaged/object.*its copy is damaged"):
        objects.get("damaged/object")


def test_a_damaged_checkpoint_or_log_does_not_stop_a_trial(
    root: Path, address_at_risk: StoreAddress
) -> None:
    store = TrialStore(S3ObjectStore(address_at_risk, timeouts=SHORT_TIMEOUTS))
    key, content = "ab" * 32, secrets.token_hex(50_000)
    store.put_checkpoint(key, content.encode())
    damage(root / "s3", content.encode())
    with pytest.raises(Damaged):  # the trial then starts over
        store.checkpoint(key)
    store.put_checkpoint(key, b"again")
    assert store.checkpoint(key) == b"again"
    store.put_log(key, content)
    damage(root / "s3", content.encode())
    assert store.log(key) == ""


def damage(folder: Path, content: bytes) -> None:
    """Flip a bit of `content` on the server's disk. On a busy machine it was once not found there
    right after the write, so this waits for it."""
    (volume,) = wait_for(
        lambda: [p for p in folder.glob("*.dat") if content[100:200] in p.read_bytes()],
        lambda: "the server has not written the object",
    )
    with volume.open("r+b") as file:
        file.seek(volume.read_bytes().index(content[100:200]))
        file.write(bytes([content[100] ^ 1]))


def test_a_full_disk_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without a free volume gives the same answer as one with a full disk."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with small_server(tmp_path) as endpoint:
        objects = S3ObjectStore(
            StoreAddress(url="s3://tickets", endpoint=endpoint), timeouts=SHORT_TIMEOUTS
        )
        with pytest.raises(StoreFull, match=r"disk is most likely full.*free disk space"):
            fill_store(objects)
        assert len(objects.get("filling/0")) == 500_000


WORKER = """
import os, signal, sys
import numpy as np
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TrialStore

store = TrialStore(S3ObjectStore(StoreAddress(url=sys.argv[1], endpoint=sys.argv[2])))
masks = {"w": np.ones((3, 3), np.bool_)}
store.put_ticket(Ticket.from_arrays(masks, architecture="a", model_sha256="0", pool="p"))
store.put_weights("a" * 64, 10, b"weights")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_killed_before_its_commit_leaves_no_trial(address: StoreAddress) -> None:
    worker = subprocess.run([sys.executable, "-c", WORKER, address.url, address.endpoint])
    assert worker.returncode == -signal.SIGKILL
    store = TrialStore(S3ObjectStore(address))
    assert store.keys() == set()
    assert store.records() == {}
    report = verify_store(store)
    assert report.ok
    assert len(report.orphaned) == 2
    assert len(collect_garbage(store, grace=NO_GRACE, dry_run=False)) == 2
    assert verify_store(store).checked == 0
