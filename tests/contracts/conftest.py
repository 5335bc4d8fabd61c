"""Every contract is tested on two S3 servers."""

from __future__ import annotations

from uuid import uuid4

import pytest

from orchestrator.store.s3 import S3ObjectStore, StoreAddress
from orchestrator.store.tickets import TrialStore


@pytest.fixture(params=["seaweed", "moto"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StoreAddress:
    """An empty store on each of the servers."""
    server = request.getfixturevalue(request.param)
    if request.param == "moto":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    endpoint = server if request.param == "moto" else server.s3_endpoint
    return StoreAddress(url=f"s3://tickets/{uuid4().hex}", endpoint=endpoint)


@pytest.fixture
def objects(address: StoreAddress) -> S3ObjectStore:
    return S3ObjectStore(address)


@pytest.fixture
def store(objects: S3ObjectStore) -> TrialStore:
    return TrialStore(objects)
