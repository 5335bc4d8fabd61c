"""A moto server, which emulates AWS, in a separate process; it is not the S3 server of the fixture
`moto`."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3

from cluster.local.processes import free_ports, is_listening
from tests.support.waits import wait_for

REGION = "us-west-2"
"""A region in which moto has machine images."""


@contextmanager
def moto_server() -> Iterator[str]:
    """Yield the endpoint of a server that allows every request."""
    port = free_ports(["moto"], {})["moto"]
    command = [sys.executable, "-m", "moto.server", "--host=127.0.0.1", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: is_listening(port) or process.poll() is not None)
        assert process.poll() is None, "moto exited"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def enforce_policies(endpoint: str) -> None:
    """Make the server reject requests that the user's policies do not allow."""
    request = urllib.request.Request(
        f"{endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request, timeout=10).close()


def boto_client(endpoint: str, service: str, key: str = "any", secret: str = "any") -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
    )


def create_user(endpoint: str, policy: str) -> tuple[str, str]:
    """Create a user with this policy only. Return its access and secret key."""
    iam = boto_client(endpoint, "iam")
    iam.create_user(UserName="sweeper")
    iam.put_user_policy(UserName="sweeper", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="sweeper")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]
