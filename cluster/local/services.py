"""The command line, environment and health check of each local service."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cluster.errors import ServiceError
from cluster.local import inner_keys

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ServiceName = Literal["s3", "mlflow"]
PORTS: dict[ServiceName, tuple[str, ...]] = {
    "s3": ("s3", "master", "volume", "filer", "admin"),
    "mlflow": ("mlflow",),
}
LOCAL_BUCKET = "tickets"
REGION = "us-east-1"
CREDENTIALS_FILE = "credentials.json"
DATABASE = "mlflow.db"
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Its eight job processes, which have no jobs to run, take half of the start-up time.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
MLFLOW_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"
"""Allowed `Host` headers of requests, with any port, as `ssh -L` needs. They exclude web pages of
other sites whose name resolves to this machine (DNS rebinding). MLflow's default also allows the
names of private networks."""
READY_MARKER = "served"
"""Name of a file next to the database that exists once MLflow has created the database."""


def service_command(name: ServiceName, root: Path, ports: Mapping[str, int]) -> list[str]:
    """Return the command line of a service, which runs in the folder `root / name`."""
    return _s3(root, ports) if name == "s3" else _mlflow(root, ports)


def service_environment(name: ServiceName, root: Path) -> dict[str, str]:
    """Return the environment of a service: this process's environment with the service's settings.

    Variables that would change the service's behaviour, or that it must not get, are removed:
    SeaweedFS takes AWS credentials in its environment for those of an administrator. Each call
    creates new keys.
    """
    removed = ("AWS_", "MLFLOW_", "_MLFLOW_", "WEED_", "S3_", "RAY_AUTH_")
    base = {key: value for key, value in os.environ.items() if not key.startswith(removed)}
    if name == "s3":
        return base | inner_keys.create_keys(root)
    return base | MLFLOW_SETTINGS | {"MLFLOW_SERVER_ALLOWED_HOSTS": MLFLOW_HOSTS}


def is_healthy(name: ServiceName, ports: Mapping[str, int], credentials: tuple[str, str]) -> bool:
    """Try to use the service once. Return False on any failure, within some seconds."""
    return _can_write(ports["s3"], credentials) if name == "s3" else _answers(ports["mlflow"])


def _s3(root: Path, ports: Mapping[str, int]) -> list[str]:
    """Return the command `weed mini` on 127.0.0.1. All that can be disabled, except S3, is."""
    return [
        str(Path(sys.executable).parent / "weed"),
        "mini",
        "-dir=.",  # an absolute path could contain a comma, which separates folders
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}.port={ports[name]}" for name in PORTS["s3"]),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-disableHttp",  # of the filer, and of the master, which needs no credentials to delete
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        f"-s3.config={root / CREDENTIALS_FILE}",
        "-s3.autoCreateBucket=false",  # a mistyped bucket must not be created
        f"-bucket={LOCAL_BUCKET}",
    ]


def _mlflow(root: Path, ports: Mapping[str, int]) -> list[str]:
    """Return the command of MLflow with one worker. The parent process creates or migrates the
    database before it starts the worker."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        f"--backend-store-uri=sqlite:///{root / 'mlflow' / DATABASE}",
        f"--artifacts-destination={root / 'mlflow' / 'artifacts'}",
        "--host=127.0.0.1",
        f"--port={ports['mlflow']}",
        "--workers=1",
    ]


def _can_write(port: int, credentials: tuple[str, str]) -> bool:
    """Return whether a PUT succeeds; listing buckets already works up to 5 s earlier."""
    client = _client(port, credentials)
    try:
        client.put_object(Bucket=LOCAL_BUCKET, Key="probe/start", Body=b"")
        client.delete_object(Bucket=LOCAL_BUCKET, Key="probe/start")
    except (BotoCoreError, ClientError):
        return False
    finally:
        client.close()
    return True


def _client(port: int, credentials: tuple[str, str]) -> S3Client:
    config = Config(
        connect_timeout=1,
        read_timeout=5,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        proxies={},
    )
    try:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name=REGION,
            aws_access_key_id=credentials[0],
            aws_secret_access_key=credentials[1],
            config=config,
        )
    except (BotoCoreError, ValueError) as error:  # ValueError if a setting is not a number
        raise ServiceError(
            f"the AWS settings of this machine cannot be used ({error}); correct the environment"
            " variables AWS_…, such as AWS_PROFILE, or the files in ~/.aws"
        ) from error


def _answers(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:  # urllib's errors are OSErrors
        return False
