"""The local servers accept only their owner, and neither web pages nor other users."""

from __future__ import annotations

import http.client
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cluster.local import servers as local
from cluster.local.processes import GRPC_PORT_OFFSET
from orchestrator.store.s3 import S3ObjectStore, StoreAddress

EVIL_ORIGIN = "http://evil.example"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("servers") / "root"
    local.start_services(folder)
    yield folder
    local.stop_services(folder)


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> S3ObjectStore:
    services = local.start_services(root)
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    return S3ObjectStore(StoreAddress(url=services.bucket_url, endpoint=services.s3_endpoint))


def ports(root: Path) -> dict[str, int]:
    return dict(json.loads((root / "services.json").read_text())["ports"])


def request_status(
    port: int, path: str, method: str = "GET", *, host: str = "", origin: str = "", body: str = ""
) -> int:
    """Return the HTTP status of the answer to a request."""
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


def is_refused(status: int) -> bool:
    return status in (401, 403, 404)


def test_internal_ports_of_the_s3_server_refuse_all_requests(
    root: Path, store: S3ObjectStore
) -> None:
    """Without protection, every web page could send these requests: an image with the address
    `/col/delete?collection=tickets` would delete the store."""
    store.put("masks/one", b"precious")
    port = ports(root)
    path = "/buckets/tickets/masks/one"
    for origin in ("", EVIL_ORIGIN):
        assert is_refused(request_status(port["s3"], "/tickets/masks/one", origin=origin))
        assert is_refused(request_status(port["s3"], "/tickets/masks/one", "DELETE", origin=origin))
        for method in ("GET", "PUT", "DELETE"):
            assert is_refused(request_status(port["filer"], path, method, origin=origin)), method
        assert is_refused(
            request_status(port["master"], "/col/delete?collection=tickets", origin=origin)
        )
        assert is_refused(request_status(port["master"], "/dir/assign", origin=origin))
        assert is_refused(request_status(port["volume"], "/1,01637037d6", origin=origin))
    assert store.get("masks/one") == b"precious"


def list_entries_request(directory: str) -> bytes:
    """Return a `filer_pb.ListEntriesRequest` for up to 100 entries."""
    name = directory.encode()
    return b"\x0a" + bytes([len(name)]) + name + b"\x20\x64"


def test_grpc_ports_refuse_clients_without_the_certificate(
    root: Path, store: S3ObjectStore
) -> None:
    store.put("masks/one", b"precious")
    with grpc.insecure_channel(f"127.0.0.1:{ports(root)['filer'] + GRPC_PORT_OFFSET}") as channel:
        call = channel.unary_stream("/filer_pb.SeaweedFiler/ListEntries")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(list_entries_request("/buckets/tickets"), timeout=10))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_server_files_are_readable_only_by_their_owner(root: Path) -> None:
    for path in [root / name for name in ("s3", "mlflow", "credentials.json", "inner.pem")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


CREATE = "/api/2.0/mlflow/experiments/create"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def test_a_foreign_web_page_cannot_reach_mlflow(root: Path) -> None:
    """Neither by cross-origin requests nor by a host name of its own that resolves to this
    machine (DNS rebinding)."""
    port = ports(root)["mlflow"]
    for host in ("evil.example", "192.168.0.7", "10.0.0.7", "0.0.0.0"):
        assert request_status(port, SEARCH, host=host) == 403, host
        assert request_status(port, "/", host=host) == 403, host
    for origin in (EVIL_ORIGIN, "null"):
        assert request_status(port, CREATE, "POST", origin=origin, body='{"name": "x"}') == 403, (
            origin
        )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_mlflow_answers_its_owner(root: Path, host: str) -> None:
    port = ports(root)["mlflow"]
    assert request_status(port, SEARCH, host=host) == 200
    assert request_status(port, "/", host=host) == 200
    assert request_status(port, CREATE, "POST", host=host, body=json.dumps({"name": host})) == 200
