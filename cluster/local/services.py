"""How each local service is started, and how it is asked whether it works."""

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

Name = Literal["s3", "mlflow"]
PORTS: dict[Name, tuple[str, ...]] = {
    "s3": ("s3", "master", "volume", "filer", "admin"),
    "mlflow": ("mlflow",),
}
BUCKET = "tickets"
REGION = "us-east-1"
CREDENTIALS = "credentials.json"
DATABASE = "mlflow.db"
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # without jobs to run, its eight job processes cost half of the start-up time
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
MLFLOW_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"
"""What a request may call the server, by any port, as after `ssh -L`: a web page from elsewhere
whose name was made to lead here has another. By itself MLflow takes private networks' too."""
SERVED = "served"
"""A file beside the database that says that MLflow has finished making it."""


def command(name: Name, root: Path, ports: Mapping[str, int]) -> list[str]:
    """The command line of a service; it runs in the folder `root / name`."""
    return _s3(root, ports) if name == "s3" else _mlflow(root, ports)


def environment(name: Name, root: Path) -> dict[str, str]:
    """Ours, without what would change how a service behaves or is none of its business (SeaweedFS
    takes AWS credentials that it finds there for those of an administrator), and the service's
    own settings; new keys at each call."""
    foreign = ("AWS_", "MLFLOW_", "_MLFLOW_", "WEED_", "S3_", "RAY_AUTH_")
    ours = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    if name == "s3":
        return ours | inner_keys.made(root)
    return ours | MLFLOW_SETTINGS | {"MLFLOW_SERVER_ALLOWED_HOSTS": MLFLOW_HOSTS}


def works(name: Name, ports: Mapping[str, int], credentials: tuple[str, str]) -> bool:
    """One try of what the service is for; False for any failure within some seconds."""
    return _writes(ports["s3"], credentials) if name == "s3" else _answers(ports["mlflow"])


def _s3(root: Path, ports: Mapping[str, int]) -> list[str]:
    """`weed mini` on 127.0.0.1 with all that is not S3 turned off as far as it can be."""
    return [
        str(Path(sys.executable).parent / "weed"),
        "mini",
        "-dir=.",  # an absolute one could hold a comma, which separates folders
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}.port={ports[name]}" for name in PORTS["s3"]),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-disableHttp",  # of the master, who deletes all for whoever asks, and of the filer
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
        f"-s3.config={root / CREDENTIALS}",
        "-s3.autoCreateBucket=false",  # a mistyped bucket must not come into being
        f"-bucket={BUCKET}",
    ]


def _mlflow(root: Path, ports: Mapping[str, int]) -> list[str]:
    """One worker; the parent process makes or migrates the database before it starts the worker."""
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        f"--backend-store-uri=sqlite:///{root / 'mlflow' / DATABASE}",
        f"--artifacts-destination={root / 'mlflow' / 'artifacts'}",
        "--host=127.0.0.1",
        f"--port={ports['mlflow']}",
        "--workers=1",
    ]


def _writes(port: int, credentials: tuple[str, str]) -> bool:
    """Whether a PUT succeeds: listing buckets does up to 5 s before writing does."""
    client = _client(port, credentials)
    try:
        client.put_object(Bucket=BUCKET, Key="probe/start", Body=b"")
        client.delete_object(Bucket=BUCKET, Key="probe/start")
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
    except (BotoCoreError, ValueError) as error:  # the latter of a number that is none
        raise ServiceError(
            f"the AWS settings of this machine cannot be used ({error}); correct the variables"
            " AWS_…, such as AWS_PROFILE, or the files in ~/.aws"
        ) from error


def _answers(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:  # urllib's errors are OSErrors
        return False
