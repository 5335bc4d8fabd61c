"""What a store loses, and what it says, when its server or a writer dies or its disk fails."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cluster.local import processes
from cluster.local import servers as local
from orchestrator.errors import Damaged, StoreFull
from orchestrator.store.maintenance import collect, verify
from orchestrator.store.s3 import Patience, S3Objects, StoreAddress
from orchestrator.store.tickets import TicketStore
from tests.support.small_store import HURRIED, fill, small_server

STUBBORN = Patience(deadline=90.0, attempts=60)
AT_ONCE = timedelta(hours=-1)
"""A grace for collectors that spare nothing."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a SeaweedFS that may be maltreated."""
    folder = tmp_path_factory.mktemp("maltreated")
    yield folder
    local.stop(folder)


@pytest.fixture
def maltreated(root: Path, monkeypatch: pytest.MonkeyPatch) -> StoreAddress:
    running = local.start(root, names=["s3"])
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    return StoreAddress(url=running.bucket_url, endpoint=running.s3_endpoint)


def kill_server(root: Path) -> None:
    identity = json.loads((root / "services.json").read_text())["identity"]
    for process in processes.alive(f"{identity}-s3"):
        process.kill()
        process.wait(10)


def test_a_killed_server_loses_nothing_that_it_acknowledged(
    root: Path, maltreated: StoreAddress
) -> None:
    objects = S3Objects(maltreated, patience=STUBBORN)
    acknowledged: dict[str, bytes] = {}
    enough = threading.Event()

    def write(writer: int) -> None:
        for number in itertools.count():
            if enough.is_set():
                return
            path, data = f"killed/{writer}-{number}", os.urandom(20_000)
            objects.put_new(path, data)  # tries again while the server is away
            acknowledged[path] = data

    def wait_for_more_than(count: int) -> None:
        deadline = time.monotonic() + 90
        while len(acknowledged) <= count:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    writers = [threading.Thread(target=write, args=(n,), daemon=True) for n in range(4)]
    for thread in writers:
        thread.start()
    wait_for_more_than(20)
    kill_server(root)
    before = len(acknowledged)
    again = local.start(root, names=["s3"])
    wait_for_more_than(before + len(writers))  # each may have had an answer on its way
    enough.set()
    for thread in writers:
        thread.join(90)
    assert again.s3_endpoint == maltreated.endpoint
    for path, data in acknowledged.items():
        assert objects.get(path) == data


def test_a_damaged_disk_is_told_from_a_dead_server(root: Path, maltreated: StoreAddress) -> None:
    """SeaweedFS notices the damage by its own checksum, and then never answers the read."""
    objects = S3Objects(maltreated, patience=HURRIED)
    content = os.urandom(50_000)
    objects.put("damaged/object", content)
    damage(root / "s3", content)
    with pytest.raises(Damaged, match=r"damaged/object.*its copy is damaged"):
        objects.get("damaged/object")


def test_a_trial_does_without_what_only_spares_it_work(
    root: Path, maltreated: StoreAddress
) -> None:
    store = TicketStore(S3Objects(maltreated, patience=HURRIED))
    key, content = "ab" * 32, secrets.token_hex(50_000)
    store.put_checkpoint(key, content.encode())
    damage(root / "s3", content.encode())
    with pytest.raises(Damaged):  # upon which the trial starts over
        store.checkpoint(key)
    store.put_checkpoint(key, b"again")
    assert store.checkpoint(key) == b"again"
    store.put_log(key, content)
    damage(root / "s3", content.encode())
    assert store.log(key) == ""


def damage(folder: Path, content: bytes) -> None:
    """Change a byte of `content` on the server's disk."""
    (volume,) = (path for path in folder.glob("*.dat") if content[100:200] in path.read_bytes())
    with volume.open("r+b") as file:
        file.seek(volume.read_bytes().index(content[100:200]))
        file.write(bytes([content[100] ^ 1]))


def test_a_full_disk_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without another volume gives the same answer as one whose disk is full."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with small_server(tmp_path) as endpoint:
        objects = S3Objects(StoreAddress(url="s3://tickets", endpoint=endpoint), patience=HURRIED)
        with pytest.raises(StoreFull, match=r"disk is most likely full.*free some space"):
            fill(objects)
        assert len(objects.get("filling/0")) == 500_000


WORKER = """
import os, signal, sys
import numpy as np
from orchestrator.store.s3 import S3Objects, StoreAddress
from orchestrator.store.ticket import Ticket
from orchestrator.store.tickets import TicketStore

store = TicketStore(S3Objects(StoreAddress(url=sys.argv[1], endpoint=sys.argv[2])))
masks = {"w": np.ones((3, 3), np.bool_)}
store.put_ticket(Ticket.from_masks(masks, scheme="s", model_sha256="0", pool="p"))
store.put_weights("a" * 64, 10, b"weights")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_dies_before_its_commit_leaves_no_trial(address: StoreAddress) -> None:
    worker = subprocess.run([sys.executable, "-c", WORKER, address.url, address.endpoint])
    assert worker.returncode == -signal.SIGKILL
    store = TicketStore(S3Objects(address))
    assert store.keys() == set()
    assert store.records() == {}
    report = verify(store)
    assert report.sound
    assert len(report.orphaned) == 2
    assert len(collect(store, grace=AT_ONCE, dry_run=False)) == 2
    assert verify(store).checked == 0
