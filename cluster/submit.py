"""Hand a command to a Ray cluster as a job, through the jobs API of its dashboard, and follow it.

What travels is a working directory, without what git ignores, without environments and caches, and
without files that look like secrets. Credentials do not travel either: the cluster's machines have
their own. Ray's token is shown by Ray's client, from where Ray keeps it.
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

ADDRESS = "http://127.0.0.1:8265"
"""Where a head that `ray start` began on this machine takes jobs."""
ENVIRONMENT = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""By default `ray job stop` sends SIGTERM and kills 3 s later (Ray 2.60, job_supervisor.py); the
trials that run need until their next step, and an upload, to save themselves."""
EXCLUDES = (
    *(".git", ".venv", "venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"),
    *(".sweepstakes", ".env", ".env.*", "*.pem", "*.key", ".aws", ".ssh", ".netrc"),
    *("auth_token", "credentials.json"),
)
"""Left behind wherever they lie, beside what `.gitignore` and `.rayignore` name."""
PATIENCE_S = 60.0
"""How long a job server may be silent before its job is no longer followed."""
PERIOD_S = 1.0
_YOUNG = "No available agent"
"""A head answers some seconds before it can take jobs, and says so in these words."""
_CODES = {"SUCCEEDED": 0, "STOPPED": 130}
ANSWER_S = 10.0
"""How long a server may take to say who it is; Ray's client would wait for ever."""
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: `SUCCEEDED`, `FAILED` or `STOPPED`, and as an exit code."""

    status: str
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Jobs:
    """The job server of one cluster."""

    address: str
    client: JobSubmissionClient

    def page(self, job: str) -> str:
        """The job's page in the dashboard."""
        return f"{self.address}/#/jobs/{job}"


def connect(address: str) -> Jobs:
    """The job server at `http(s)://HOST:PORT`.

    Raises:
        ServiceError: it does not answer, is none, or refuses the token; or a password is in the
            address, where others see it.
    """
    address = address.rstrip("/")
    if "@" in address:
        raise ServiceError(
            "--address: holds a user name or password; give http://HOST:8265, and the cluster's"
            " token in the file that RAY_AUTH_TOKEN_PATH names"
        )
    if not address.startswith(("http://", "https://")):
        raise ServiceError(
            f"--address {address}: not the address of a dashboard; give http://HOST:8265"
        )
    if any(name in os.environ for name in _TOKENS) or (Path.home() / ".ray/auth_token").exists():
        # Ray's client shows the token that is there only where this says so.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # or RAY_ADDRESS would go before ours
    import requests
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # a line per ignored folder, else
    with _explained(address):
        requests.get(f"{address}/api/version", timeout=ANSWER_S, stream=True).close()
        return Jobs(address, JobSubmissionClient(address))


def runtime_env(
    folder: Path, exclude: Sequence[str], variables: Mapping[str, str]
) -> dict[str, Any]:
    """The environment of a job that runs in a copy of `folder`, without `exclude` (patterns as in
    a .gitignore) and `EXCLUDES`, and with `variables`, none of which may be a secret."""
    return {
        "working_dir": str(folder),
        "excludes": [*EXCLUDES, *exclude],
        "env_vars": {**variables, **ENVIRONMENT},
    }


def submit(
    jobs: Jobs, entrypoint: str, environment: Mapping[str, Any], resources: Mapping[str, float]
) -> str:
    """Upload the working directory and start a shell command in it; the job's id.

    The command runs on the head, unless `resources` asks for what only other nodes have.

    Raises:
        ServiceError: the server refuses it, for example as too large.
    """
    deadline = time.monotonic() + PATIENCE_S
    with _explained(jobs.address):
        while True:
            try:
                return jobs.client.submit_job(
                    entrypoint=entrypoint,
                    runtime_env=dict(environment),
                    entrypoint_resources=dict(resources) or None,
                )
            except RuntimeError as error:
                if _YOUNG not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(PERIOD_S)


def follow(jobs: Jobs, job: str, write: Callable[[str], None]) -> Outcome:
    """Pass on what the job prints until it ends, over lost connections too.

    Raises:
        ServiceError: the server has been silent for `PATIENCE_S`; the job may well go on.
    """
    return asyncio.run(_follow(jobs, job, write))


async def _follow(jobs: Jobs, job: str, write: Callable[[str], None]) -> Outcome:
    from aiohttp import ClientError

    passed, heard = 0, time.monotonic()
    while True:
        position = 0
        try:
            async for text in jobs.client.tail_job_logs(job):  # from the beginning, each time
                write(text[max(0, passed - position) :])
                position += len(text)
                passed = max(passed, position)
            info = jobs.client.get_job_info(job)
        except (OSError, RuntimeError, ClientError) as error:
            if time.monotonic() - heard > PATIENCE_S:
                raise ServiceError(
                    f"{jobs.address}: no answer for {PATIENCE_S:.0f} s ({_last_line(error)}); job"
                    f" {job} may go on: `ray job status {job} --address {jobs.address}`"
                ) from error
        else:
            heard = time.monotonic()
            if info.status.is_terminal():
                code = _CODES.get(info.status.value, info.driver_exit_code or 1)
                return Outcome(info.status.value, code, info.message or "")
        await asyncio.sleep(PERIOD_S)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Ray's exceptions as one line each."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    try:
        yield
    except AuthenticationError as error:
        raise ServiceError(
            f"{address}: the cluster refuses our token, or we have none; put its own (`ray"
            " get-auth-token` there) into a file and name that in RAY_AUTH_TOKEN_PATH"
        ) from error
    except (ConnectionError, RequestException) as error:
        raise ServiceError(
            f"{address}: no Ray dashboard answers; check --address, a port-forward or tunnel to"
            " the head's port 8265, and that the cluster runs"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise ServiceError(f"{address}: the job was refused: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
