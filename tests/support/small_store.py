"""An S3 server with little room, and an impatient client."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.local import processes, services
from orchestrator.store.s3 import Patience, S3Objects

HURRIED = Patience(connect=5.0, read=2.0, deadline=8.0, attempts=2)


@contextmanager
def small_server(root: Path) -> Iterator[str]:
    """A SeaweedFS with room for one volume of 1 MB."""
    keys = {"accessKey": "key", "secretKey": "secret"}
    identity = {"name": "test", "credentials": [keys], "actions": ["Admin"]}
    (root / services.CREDENTIALS).write_text(json.dumps({"identities": [identity]}))
    (root / "s3").mkdir()
    ports = processes.free_ports(services.PORTS["s3"], {})
    token = f"test-{root}"
    limits = ["-volume.max=1", "-master.volumeSizeLimitMB=1"]
    processes.launch(
        [*services.command("s3", root, ports), *limits],
        token=token,
        folder=root / "s3",
        log=root / "s3.log",
        environment=services.environment("s3", root),
    )
    try:
        deadline = time.monotonic() + 60
        while not services.works("s3", ports, ("key", "secret")):
            assert time.monotonic() < deadline, processes.last_line(root / "s3.log")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{ports['s3']}"
    finally:
        processes.end(token)


def fill(objects: S3Objects) -> None:
    for number in range(40):
        objects.put_new(f"filling/{number}", os.urandom(500_000))
