"""Real S3 servers for the whole suite, each started once and only if a test uses it; and which
tests run in which process, and when."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import boto3
import pytest
from hypothesis import settings
from moto.server import ThreadedMotoServer
from xdist.scheduler import LoadScopeScheduling

from cluster.local import servers as local
from cluster.local.services import LOCAL_BUCKET
from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore
from tests.support.unconditional_s3 import unconditional_s3

settings.register_profile("untimed", deadline=None)  # a slow test on a busy machine is not a defect
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.Services]:
    """The SeaweedFS of this test session. Its credentials are set in the environment."""
    root = tmp_path_factory.mktemp("services")
    services = local.start_services(root, names=["s3"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in services.environment().items():
            patch.setenv(name, value)
        yield services
    local.stop_services(root)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The endpoint of a second S3 server. It accepts any credentials, ignores checksums and
    guarantees nothing under concurrency."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
    client.create_bucket(Bucket=LOCAL_BUCKET)
    client.close()
    yield endpoint
    server.stop()


@pytest.fixture
def address(seaweed: local.Services) -> StoreAddress:
    """An empty store on SeaweedFS."""
    return StoreAddress(url=f"{seaweed.bucket_url}/{uuid4().hex}", endpoint=seaweed.s3_endpoint)


@pytest.fixture
def store(address: StoreAddress) -> TrialStore:
    """An empty ticket store on SeaweedFS."""
    return TrialStore(S3ObjectStore(address))


@pytest.fixture
def unconditional_server() -> Iterator[str]:
    """The endpoint of an S3 server that ignores conditional PUT."""
    with unconditional_s3() as endpoint:
        yield endpoint


GROUPS = {
    "finished": tuple(
        f"e2e/test_{name}.py"
        for name in ("run", "tracking", "tickets", "extending", "cost", "secrets")
    ),
    "baseline": ("faults/test_damage.py", "faults/test_killed.py"),
}
"""Fixtures that run a whole sweep, and the modules whose tests share it."""
SEPARATE = ("trainables/test_run_group.py",)
"""Modules whose tests share nothing and take long: each test may run on another worker."""
LONGEST = "faults/test_kinds.py"
"""The module that takes longest on its worker: 28 of the 33 minutes of the slow suite. It starts
first."""
LONG_FIRST = ("e2e", "faults", "worker", "safety", "cluster")
"""Folders whose tests take longest. They start next, so that all workers finish at about the same
time."""


class GroupScheduling(LoadScopeScheduling):
    """Run tests that share fixtures on one worker of pytest-xdist: those of a group in `GROUPS`, or
    of a module."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if module.endswith(SEPARATE):
            return nodeid
        shared = (group for group, modules in GROUPS.items() if module.endswith(modules))
        return next(shared, module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def order(item: pytest.Item) -> tuple[bool, bool]:
        return not item.path.match(LONGEST), not set(LONG_FIRST) & set(item.path.parts)

    items.sort(key=order)


_STATUS = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Restore the default handler of SIGINT, which several tests send. A process that a shell
    starts in the background ignores it, and so do its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit without running the destructors of native libraries, whose order is undefined: with
    torch, Ray, Arrow and DuckDB in one process, a run in which every test had passed has ended in a
    segmentation fault. Commands of Sweepstakes exit normally, and their exit codes are tested."""
    if (status := config.stash.get(_STATUS, None)) is None:
        return  # nothing was run
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
