"""A moto server of its own: AWS as far as moto plays it, apart from the suite's S3 server."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3

from cluster.local.processes import free_ports, listening

REGION = "us-west-2"
"""moto knows machine images here."""


@contextmanager
def serving() -> Iterator[str]:
    """The endpoint; anybody may do anything there."""
    port = free_ports(["moto"], {})["moto"]
    command = [sys.executable, "-m", "moto.server", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not listening(port):
            assert process.poll() is None, "moto ended"
            assert time.monotonic() < deadline, "moto does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def enforce_policies(endpoint: str) -> None:
    """From here on each request needs a user whose policies allow it."""
    request = urllib.request.Request(
        f"{endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request, timeout=10).close()


def client(endpoint: str, service: str, key: str = "any", secret: str = "any") -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def user(endpoint: str, policy: str) -> tuple[str, str]:
    """The access and secret key of a new user with this policy alone."""
    iam = client(endpoint, "iam")
    iam.create_user(UserName="sweeper")
    iam.put_user_policy(UserName="sweeper", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="sweeper")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]
