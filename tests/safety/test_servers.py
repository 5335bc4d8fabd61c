"""What the servers of this machine let in: their owner, and neither web pages nor other users."""

from __future__ import annotations

import http.client
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cluster.local import servers as local
from cluster.local.processes import GRPC
from orchestrator.store.s3 import S3Objects, StoreAddress

ELSEWHERE = "http://evil.example"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("servers") / "root"
    local.start(folder)
    yield folder
    local.stop(folder)


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> S3Objects:
    services = local.start(root)
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    return S3Objects(StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint))


def ports(root: Path) -> dict[str, int]:
    return dict(json.loads((root / "services.json").read_text())["ports"])


def ask(
    port: int, path: str, method: str = "GET", *, host: str = "", origin: str = "", body: str = ""
) -> int:
    """The status of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"{host or '127.0.0.1'}:{port}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    if origin:
        connection.putheader("Origin", origin)
    connection.endheaders(body.encode())
    status = connection.getresponse().status
    connection.close()
    return status


def refused(status: int) -> bool:
    return status in (401, 403, 404)


def test_no_inner_port_of_the_s3_server_gives_or_takes_anything(
    root: Path, store: S3Objects
) -> None:
    """Each of these worked for anybody, from any web page: one picture whose address is
    `/col/delete?collection=tickets` took the store away."""
    store.put("masks/one", b"precious")
    inner = ports(root)
    path = "/buckets/tickets/masks/one"
    for origin in ("", ELSEWHERE):
        assert refused(ask(inner["s3"], "/tickets/masks/one", origin=origin))
        assert refused(ask(inner["s3"], "/tickets/masks/one", "DELETE", origin=origin))
        for method in ("GET", "PUT", "DELETE"):
            assert refused(ask(inner["filer"], path, method, origin=origin)), method
        assert refused(ask(inner["master"], "/col/delete?collection=tickets", origin=origin))
        assert refused(ask(inner["master"], "/dir/assign", origin=origin))
        assert refused(ask(inner["volume"], "/1,01637037d6", origin=origin))
    assert store.get("masks/one") == b"precious"


def listing(directory: str) -> bytes:
    """`filer_pb.ListEntriesRequest` of up to 100 entries."""
    name = directory.encode()
    return b"\x0a" + bytes([len(name)]) + name + b"\x20\x64"


def test_without_its_certificate_no_grpc_port_answers(root: Path, store: S3Objects) -> None:
    store.put("masks/one", b"precious")
    with grpc.insecure_channel(f"127.0.0.1:{ports(root)['filer'] + GRPC}") as channel:
        call = channel.unary_stream("/filer_pb.SeaweedFiler/ListEntries")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(listing("/buckets/tickets"), timeout=10))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_what_they_keep_is_for_this_user_alone(root: Path) -> None:
    kept = [root / name for name in ("s3", "mlflow", "credentials.json", "inner.pem")]
    for path in kept:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


CREATE = "/api/2.0/mlflow/experiments/create"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def test_a_web_page_from_elsewhere_reaches_no_mlflow(root: Path) -> None:
    """Neither by asking for this machine, nor under a name of its own that leads here."""
    port = ports(root)["mlflow"]
    for host in ("evil.example", "192.168.0.7", "10.0.0.7", "0.0.0.0"):
        assert ask(port, SEARCH, host=host) == 403, host
        assert ask(port, "/", host=host) == 403, host
    for origin in (ELSEWHERE, "null"):
        assert ask(port, CREATE, "POST", origin=origin, body='{"name": "x"}') == 403, origin


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_mlflow_answers_its_owner(root: Path, host: str) -> None:
    port = ports(root)["mlflow"]
    assert ask(port, SEARCH, host=host) == 200
    assert ask(port, "/", host=host) == 200
    assert ask(port, CREATE, "POST", host=host, body=json.dumps({"name": host})) == 200
