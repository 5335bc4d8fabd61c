"""A minimal MLflow client. Only this module imports mlflow, and only when it connects: environment
variables that set mlflow's limits and disable its telemetry must be set before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.plan.keys import canonical_sha256

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

KEY_TAG = "sweepstakes.key"
"""Tag that identifies a run."""
RUN_NAME_TAG = "mlflow.runName"
COLOR_TAG = "mlflow.runColor"
"""Tag with the colour of a run in the UI's charts."""
PARENT_TAG = "mlflow.parentRunId"
CONTENT_TAG = "sweepstakes.content"
"""Tag with a digest of a run's content, written last."""
FILES_TAG = "sweepstakes.files"
"""Tag with a digest of a run's artifacts."""
LIVE_TAG = "sweepstakes.live"
"""Tag of runs created by a worker."""
STATE_TAGS = (PARENT_TAG, CONTENT_TAG, FILES_TAG)

MetricPoint: TypeAlias = tuple[str, float, int, int]
"""(metric, value, step, milliseconds since 1970)."""
_MAX_POINTS_PER_CALL = 900
"""MLflow accepts 1,000 entities per log_batch; the rest is for params and tags."""
_ENVIRONMENT = {
    # MLflow's default limits (7 retries, 120 s) would delay the end of a sweep by many minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A summary of a run. MLflow's own Run, with an object per param, tag and metric, takes about
    twenty times the memory."""

    id: str
    status: str
    state_tags: Mapping[str, str]
    """The run's tags that are in `STATE_TAGS`."""
    params_digest: str = ""
    """A digest of the params, which are always written all at once; empty without params."""


def digest_params(params: Mapping[str, str]) -> str:
    return canonical_sha256(dict(params)) if params else ""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment on one server. Every method raises `MlflowException` if its request fails."""

    client: MlflowClient
    id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    """Its tags when it was opened."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment, with a request for each that differed when it was opened."""
        for name, value in tags.items():
            if self.tags.get(name) != value:
                self.client.set_experiment_tag(self.id, name, value)

    def runs(self, filter_string: str = "") -> dict[str, StoredRun]:
        """Return the runs that match MLflow's `filter_string`, by key."""
        runs: dict[str, StoredRun] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.id], filter_string, max_results=1000, page_token=token
            )
            runs |= {
                run.data.tags[KEY_TAG]: _stored_run(run) for run in page if KEY_TAG in run.data.tags
            }
            token = page.token
            if not token:
                return runs

    def live_runs(self) -> dict[str, StoredRun]:
        """Return runs created by workers that have no record yet."""
        return self.runs(f"attributes.status = 'RUNNING' AND tags.`{LIVE_TAG}` = 'true'")

    def find_run(self, key: str) -> StoredRun | None:
        return self.runs(f"tags.`{KEY_TAG}` = '{key}'").get(key)

    def create_run(
        self, key: str, name: str, start: int | None = None, *, live: bool = False
    ) -> StoredRun:
        """Create a run with status `RUNNING`, started at `start` (milliseconds; None is now)."""
        tags = {KEY_TAG: key, RUN_NAME_TAG: name} | ({LIVE_TAG: "true"} if live else {})
        return _stored_run(self.client.create_run(self.id, start_time=start, tags=tags))

    def log(
        self,
        run_id: str,
        points: Sequence[MetricPoint],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Write everything in one call, or in a few if there are many points.

        The tags are written last, so that a partly written run does not look complete. Writing a
        point again does not duplicate it.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, when, step) for name, value, step, when in points]
        head = max(len(metrics) - 1, 0) // _MAX_POINTS_PER_CALL * _MAX_POINTS_PER_CALL
        for first in range(0, head, _MAX_POINTS_PER_CALL):
            self.client.log_batch(run_id, metrics=metrics[first : first + _MAX_POINTS_PER_CALL])
        self.client.log_batch(
            run_id,
            metrics=metrics[head:],
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )

    def end_run(
        self, run_id: str, status: Literal["RUNNING", "FINISHED"], end: int | None = None
    ) -> None:
        self.client.set_terminated(run_id, status, end)

    def delete_run(self, run_id: str) -> None:
        self.client.delete_run(run_id)

    def log_artifacts(self, run_id: str, folder: Path) -> None:
        self.client.log_artifacts(run_id, str(folder))


def _stored_run(run: Run) -> StoredRun:
    tags = run.data.tags
    state_tags = {name: tags[name] for name in STATE_TAGS if name in tags}
    return StoredRun(run.info.run_id, run.info.status, state_tags, digest_params(run.data.params))


def open_experiment(uri: str, name: str) -> Experiment:
    """Return the experiment `name` at `uri`; create or restore it if needed."""
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return Experiment(client, str(client.create_experiment(name)))
        except MlflowException:  # another worker may have created it
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return Experiment(client, str(experiment.experiment_id), dict(experiment.tags))


def first_line(error: Exception) -> str:
    """Return an error as text for a one-line warning."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
