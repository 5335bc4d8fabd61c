"""The few things we ask of an MLflow server. The only module that imports mlflow, and only when a
connection is made: its limits and its telemetry are set by environment variables before that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.plan.keys import canonical

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

KEY = "sweepstakes.key"
"""Tag by which a run is found again."""
NAME = "mlflow.runName"
PARENT = "mlflow.parentRunId"
CONTENT = "sweepstakes.content"
"""Tag with a digest of all that a run holds, written last."""
FILES = "sweepstakes.files"
"""Tag with a digest of the files that are attached to a run."""
LIVE = "sweepstakes.live"
"""Tag of the runs that a worker made."""
MARKS = (PARENT, CONTENT, FILES)

Point: TypeAlias = tuple[str, float, int, int]
"""(metric, value, step, milliseconds since 1970)."""
_POINTS_A_CALL = 900
"""MLflow takes 1,000 entities in one log_batch: this leaves room for params and tags."""
_ENVIRONMENT = {
    # MLflow's own limits (7 retries, 120 s) would hold a sweep's end up for many minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, slots=True)
class Held:
    """What we remember of a run; as MLflow gives it, with every param, tag and metric an object, it
    takes some twenty times the memory."""

    id: str
    status: str
    marks: Mapping[str, str]
    """The tags in `MARKS` that it has."""
    params: str = ""
    """A digest of its params, which MLflow takes all at once or not at all; empty without any."""


def digest_of(params: Mapping[str, str]) -> str:
    return hashlib.sha256(canonical(dict(params))).hexdigest() if params else ""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of one server; every method raises `MlflowException` if it cannot be had."""

    client: MlflowClient
    id: str

    def runs(self, where: str = "") -> dict[str, Held]:
        """Our runs by key; those that MLflow's filter `where` lets through."""
        found: dict[str, Held] = {}
        token = None
        while True:
            page = self.client.search_runs([self.id], where, max_results=1000, page_token=token)
            found |= {run.data.tags[KEY]: _held(run) for run in page if KEY in run.data.tags}
            token = page.token
            if not token:
                return found

    def live(self) -> dict[str, Held]:
        """Runs that workers made and that no record has been put into yet."""
        return self.runs(f"attributes.status = 'RUNNING' AND tags.`{LIVE}` = 'true'")

    def find(self, key: str) -> Held | None:
        return self.runs(f"tags.`{KEY}` = '{key}'").get(key)

    def create(self, key: str, name: str, start: int | None = None, *, live: bool = False) -> Held:
        """A new run, `RUNNING` since `start` (milliseconds; None is now)."""
        tags = {KEY: key, NAME: name} | ({LIVE: "true"} if live else {})
        return _held(self.client.create_run(self.id, start_time=start, tags=tags))

    def log(
        self,
        run_id: str,
        points: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Write all in one call, or in a few where there are many points; the tags come last, so
        that a half-written run does not claim to be whole. A point that is there stays one."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, when, step) for name, value, step, when in points]
        head = max(len(metrics) - 1, 0) // _POINTS_A_CALL * _POINTS_A_CALL
        for first in range(0, head, _POINTS_A_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + _POINTS_A_CALL])
        self.client.log_batch(
            run_id,
            metrics=metrics[head:],
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def finish(
        self, run_id: str, status: Literal["RUNNING", "FINISHED"], end: int | None = None
    ) -> None:
        self.client.set_terminated(run_id, status, end)

    def delete(self, run_id: str) -> None:
        self.client.delete_run(run_id)

    def attach(self, run_id: str, folder: Path) -> None:
        self.client.log_artifacts(run_id, str(folder))


def _held(run: Run) -> Held:
    tags = run.data.tags
    marks = {name: tags[name] for name in MARKS if name in tags}
    return Held(run.info.run_id, run.info.status, marks, digest_of(run.data.params))


def connect(uri: str, name: str) -> Experiment:
    """The experiment `name` at `uri`, made or brought back from the bin if need be."""
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return Experiment(client, str(client.create_experiment(name)))
        except MlflowException:  # another worker may have been faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return Experiment(client, str(found.experiment_id))


def first_line(error: Exception) -> str:
    """An error for a one-line warning."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
