"""Servers that are missing, hang or misbehave, and concurrent writers."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.errors import ServiceError
from cluster.local import services
from orchestrator.errors import (
    ConfigError,
    StoreError,
    StoreUnreachable,
    StoreUnsafe,
)
from orchestrator.store.s3 import S3ObjectStore, StoreAddress, Timeouts
from orchestrator.store.tickets import thread_map

SHORT_TIMEOUTS = Timeouts(connect_s=1.0, read_s=1.0, deadline_s=3.0, max_attempts=3)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")


@pytest.mark.parametrize(
    "url", ["", "tickets", "s3://", "https://bucket/prefix", "s3:///prefix", "s3://My_Bucket/x"]
)
def test_a_store_url_without_a_valid_bucket_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"use s3://bucket"):
        StoreAddress(url=url)


@pytest.mark.parametrize(
    "endpoint", ["localhost:8333", "http://", "ftp://host", "http://h:port", "http://u:p@h"]
)
def test_an_invalid_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"use an address such as http://"):
        StoreAddress(url="s3://bucket", endpoint=endpoint)


def test_a_missing_role_token_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/sweeps")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(StoreUnreachable, match=rf"{tmp_path / 'token'}.*AWS_WEB_IDENTITY_TOKEN"):
        S3ObjectStore(StoreAddress(url="s3://bucket")).probe()


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_PROFILE", "nosuch"), ("AWS_CONFIG_FILE", __file__)]
)
def test_invalid_aws_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreUnreachable, match=rf"s3://bucket: .*{value}.*AWS_PROFILE"):
        S3ObjectStore(StoreAddress(url="s3://bucket"))
    with pytest.raises(ServiceError, match=rf"{value}.*AWS_PROFILE"):
        services.is_healthy("s3", {"s3": 1}, ("key", "secret"))


@pytest.mark.parametrize("url", ["s3://bucket/a/b", "s3://bucket/a/b/"])
def test_the_prefix_is_part_of_every_url(url: str) -> None:
    assert S3ObjectStore(StoreAddress(url=url)).url("c") == "s3://bucket/a/b/c"


def test_two_prefixes_are_two_stores(address: StoreAddress) -> None:
    a = S3ObjectStore(StoreAddress(url=f"{address.url}/a", endpoint=address.endpoint))
    ab = S3ObjectStore(StoreAddress(url=f"{address.url}/ab", endpoint=address.endpoint))
    a.put("x", b"content of a")
    ab.put("x", b"content of ab")
    assert [item.path for item in a.list("")] == ["x"]
    assert a.get("x") == b"content of a"


def test_a_listing_of_several_pages_is_complete(address: StoreAddress) -> None:
    objects = S3ObjectStore(address)
    names = [f"many/{number:04d}" for number in range(1_003)]  # a page holds 1,000
    thread_map(lambda name: objects.put(name, b""), names)
    assert [item.path for item in objects.list("many/")] == names


def test_a_server_that_ignores_conditional_put_is_refused(
    keys: None, unconditional_server: str
) -> None:
    objects = S3ObjectStore(StoreAddress(url="s3://bucket", endpoint=unconditional_server))
    with pytest.raises(StoreUnsafe, match="If-None-Match"):
        objects.probe()


def test_a_missing_server_is_reported(keys: None) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and no listen()
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(StoreUnreachable, match=rf"{endpoint}.*store\.endpoint"):
            S3ObjectStore(StoreAddress(url="s3://bucket", endpoint=endpoint)).probe()


def test_a_server_that_never_answers_times_out(keys: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        objects = S3ObjectStore(
            StoreAddress(url="s3://bucket", endpoint=endpoint), timeouts=SHORT_TIMEOUTS
        )
        with pytest.raises(StoreUnreachable, match="ReadTimeoutError"):
            objects.get("x")


def test_a_wrong_secret_is_reported_but_not_printed(
    address: StoreAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(StoreUnreachable, match=r"credentials.*AWS_SECRET_ACCESS_KEY") as caught:
        S3ObjectStore(address).probe()
    assert "hunter2" not in str(caught.value)


def test_missing_credentials_are_reported(
    address: StoreAddress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreUnreachable, match="set AWS_ACCESS_KEY_ID"):
        S3ObjectStore(address).probe()


def test_a_path_that_the_server_refuses_is_reported_with_its_error(address: StoreAddress) -> None:
    with pytest.raises(StoreError, match="KeyTooLong"):
        S3ObjectStore(address).put("x" * 900, b"")


def test_one_of_many_concurrent_writers_wins(address: StoreAddress) -> None:
    writers, paths = 6, [f"hot/{number}" for number in range(5)]
    stores = [S3ObjectStore(address) for _ in range(writers)]
    start = threading.Barrier(writers)

    def write(number: int) -> list[bool]:
        start.wait()
        return [stores[number].put_new(path, b"%d" % number) for path in paths]

    with ThreadPoolExecutor(writers) as pool:
        won = list(pool.map(write, range(writers)))
    for index, path in enumerate(paths):
        (winner,) = (number for number in range(writers) if won[number][index])
        assert stores[0].get(path) == b"%d" % winner
