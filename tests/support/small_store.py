"""A small S3 server that can be filled, and short client timeouts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.local import processes, services
from orchestrator.store.s3 import S3ObjectStore, Timeouts
from tests.support.waits import wait_for

SHORT_TIMEOUTS = Timeouts(connect_s=5.0, read_s=2.0, deadline_s=8.0, max_attempts=2)


@contextmanager
def small_server(root: Path) -> Iterator[str]:
    """Run a SeaweedFS with space for one volume of 1 MB; yield its endpoint."""
    keys = {"accessKey": "key", "secretKey": "secret"}
    identity = {"name": "test", "credentials": [keys], "actions": ["Admin"]}
    (root / services.CREDENTIALS_FILE).write_text(json.dumps({"identities": [identity]}))
    (root / "s3").mkdir()
    ports = processes.free_ports(services.PORTS["s3"], {})
    token = f"test-{root}"
    limits = ["-volume.max=1", "-master.volumeSizeLimitMB=1"]
    processes.launch(
        [*services.service_command("s3", root, ports), *limits],
        token=token,
        folder=root / "s3",
        log=root / "s3.log",
        environment=services.service_environment("s3", root),
    )
    try:
        wait_for(
            lambda: services.is_healthy("s3", ports, ("key", "secret")),
            lambda: processes.last_line(root / "s3.log"),
        )
        yield f"http://127.0.0.1:{ports['s3']}"
    finally:
        processes.terminate(token)


def fill_store(objects: S3ObjectStore) -> None:
    """Write more than a `small_server` can hold."""
    for number in range(40):
        objects.put_new(f"filling/{number}", os.urandom(500_000))
