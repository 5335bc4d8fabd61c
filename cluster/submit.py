"""Submit a command to a Ray cluster as a job, through the jobs API of its dashboard, and follow it.

The job gets a copy of a working directory, without files that git ignores, environments, caches,
and files that look like secrets. It does not get credentials: the cluster's machines have their
own. Ray's client reads Ray's token from its usual place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ServiceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""The dashboard of a head that `ray start` started on this machine."""
JOB_STOP_ENVIRONMENT = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""By default `ray job stop` sends SIGTERM and kills 3 s later (Ray 2.60, job_supervisor.py).
Running trials need time until their next step, and for an upload, to save a checkpoint."""
EXCLUDES = (
    *(".git", ".venv", "venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"),
    *(".sweepstakes", ".env", ".env.*", "*.pem", "*.key", ".aws", ".ssh", ".netrc"),
    *("auth_token", "credentials.json"),
)
"""Patterns of files that are never uploaded, in addition to `.gitignore` and `.rayignore`."""
JOB_SERVER_TIMEOUT_S = 60.0
"""Time without an answer of the job server after which its job is no longer followed."""
JOB_POLL_INTERVAL_S = 1.0
_NOT_READY = "No available agent"
"""Error message of a head during the seconds in which it answers but cannot accept jobs yet."""
_EXIT_CODES = {"SUCCEEDED": 0, "STOPPED": 130}
DASHBOARD_TIMEOUT_S = 10.0
"""Time limit of the first request; Ray's client would wait forever."""
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """How a job ended."""

    status: str
    """`SUCCEEDED`, `FAILED` or `STOPPED`."""
    code: int
    """Exit code: 0 if it succeeded, 130 if it was stopped, else that of its command."""
    message: str
    """Ray's explanation of the status; may be empty."""


@dataclass(frozen=True, slots=True)
class JobServer:
    """The job server of one cluster."""

    address: str
    client: JobSubmissionClient

    def dashboard_url(self, job: str) -> str:
        """Return the URL of the job's page in the dashboard."""
        return f"{self.address}/#/jobs/{job}"


def connect_job_server(address: str) -> JobServer:
    """Connect to the job server at `http(s)://HOST:PORT`.

    Raises:
        ServiceError: the server does not answer, is not a Ray dashboard, or rejects the token; or
            the address contains a password, which other users could see.
    """
    address = address.rstrip("/")
    if "@" in address:
        raise ServiceError(
            "--address: contains a user name or password; use http://HOST:8265, and put the"
            " cluster's token into the file that RAY_AUTH_TOKEN_PATH names"
        )
    if not address.startswith(("http://", "https://")):
        raise ServiceError(
            f"--address {address}: not the address of a dashboard; use http://HOST:8265"
        )
    if (
        any(name in os.environ for name in _TOKEN_VARIABLES)
        or (Path.home() / ".ray/auth_token").exists()
    ):
        # Ray's client sends the token only if this variable is set.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # else RAY_ADDRESS would take precedence
    import requests
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # else one line per ignored folder
    with _one_line_errors(address):
        requests.get(f"{address}/api/version", timeout=DASHBOARD_TIMEOUT_S, stream=True).close()
        return JobServer(address, JobSubmissionClient(address))


def runtime_env(
    folder: Path, exclude: Sequence[str], variables: Mapping[str, str]
) -> dict[str, Any]:
    """Return the runtime environment of a job that runs in a copy of `folder`, without files that
    match `exclude` (patterns as in .gitignore) or `EXCLUDES`, and with the environment `variables`,
    which must not contain secrets."""
    return {
        "working_dir": str(folder),
        "excludes": [*EXCLUDES, *exclude],
        "env_vars": {**variables, **JOB_STOP_ENVIRONMENT},
    }


def submit_job(
    jobs: JobServer, entrypoint: str, environment: Mapping[str, Any], resources: Mapping[str, float]
) -> str:
    """Upload the working directory and start a shell command in it. Return the job's id.

    The command runs on the head unless `resources` (amounts by name of a Ray resource) requires
    another node.

    Raises:
        ServiceError: the server rejects the job, for example if the directory is too large.
    """
    deadline = time.monotonic() + JOB_SERVER_TIMEOUT_S
    with _one_line_errors(jobs.address):
        while True:
            try:
                return jobs.client.submit_job(
                    entrypoint=entrypoint,
                    runtime_env=dict(environment),
                    entrypoint_resources=dict(resources) or None,
                )
            except RuntimeError as error:
                if _NOT_READY not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(JOB_POLL_INTERVAL_S)


def follow_job(jobs: JobServer, job: str, write: Callable[[str], None]) -> JobOutcome:
    """Write the job's output until it ends, reconnecting after connection errors.

    Raises:
        ServiceError: the server did not answer for `JOB_SERVER_TIMEOUT_S`; the job may still run.
    """
    return asyncio.run(_follow(jobs, job, write))


async def _follow(jobs: JobServer, job: str, write: Callable[[str], None]) -> JobOutcome:
    from aiohttp import ClientError

    written, last_answer = 0, time.monotonic()
    while True:
        position = 0
        try:
            async for text in jobs.client.tail_job_logs(job):  # always from the beginning
                write(text[max(0, written - position) :])
                position += len(text)
                written = max(written, position)
            info = jobs.client.get_job_info(job)
        except (OSError, RuntimeError, ClientError) as error:
            if time.monotonic() - last_answer > JOB_SERVER_TIMEOUT_S:
                raise ServiceError(
                    f"{jobs.address}: no answer for {JOB_SERVER_TIMEOUT_S:.0f} s"
                    f" ({_last_line(error)}); job {job} may still run:"
                    f" `ray job status {job} --address {jobs.address}`"
                ) from error
        else:
            last_answer = time.monotonic()
            if info.status.is_terminal():
                code = _EXIT_CODES.get(info.status.value, info.driver_exit_code or 1)
                return JobOutcome(info.status.value, code, info.message or "")
        await asyncio.sleep(JOB_POLL_INTERVAL_S)


@contextmanager
def _one_line_errors(address: str) -> Iterator[None]:
    """Convert Ray's exceptions to `ServiceError`s of one line."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    try:
        yield
    except AuthenticationError as error:
        raise ServiceError(
            f"{address}: the cluster rejects the token, or there is none; put the cluster's token"
            " (`ray get-auth-token` there) into a file and set RAY_AUTH_TOKEN_PATH to its path"
        ) from error
    except (ConnectionError, RequestException) as error:
        raise ServiceError(
            f"{address}: no Ray dashboard answers; check --address, the port-forward or tunnel to"
            " the head's port 8265, and whether the cluster runs"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise ServiceError(f"{address}: the job was rejected: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
