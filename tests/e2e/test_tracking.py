"""MLflow is a projection of the store: an empty database can be rebuilt from it."""

from __future__ import annotations

from typing import Any

from cluster.local import servers as local
from orchestrator.tracking.experiment import KEY_TAG, PARENT_TAG, Experiment, open_experiment
from tests.support.finished import FinishedSweep


def content(finished: FinishedSweep) -> dict[str, dict[str, Any]]:
    """Contents of the sweep's MLflow experiment by key, since run ids are assigned by MLflow."""
    services = local.start_services(finished.home.path, names=["mlflow"])
    experiment = open_experiment(services.mlflow_uri, finished.plan.name)
    keys = {run.id: key for key, run in experiment.runs().items()}
    return {key: run_content(experiment, run_id, keys) for run_id, key in keys.items()}


def run_content(experiment: Experiment, run_id: str, keys: dict[str, str]) -> dict[str, Any]:
    run = experiment.client.get_run(run_id)
    tags = dict(run.data.tags)
    tags[PARENT_TAG] = keys[tags[PARENT_TAG]] if PARENT_TAG in tags else ""
    # Live curves are sent while a trial runs and are not stored elsewhere. The record has the same
    # values, and these are restored.
    metrics = {
        name: sorted(
            (point.step, point.value, point.timestamp)
            for point in experiment.client.get_metric_history(run_id, name)
        )
        for name in run.data.metrics
        if not name.startswith("live/")
    }
    return {"params": dict(run.data.params), "tags": tags, "metrics": metrics}


def test_a_deleted_database_is_rebuilt_with_the_same_content(finished: FinishedSweep) -> None:
    before = content(finished)
    scored = {key for key, record in finished.records.items() if record.kind == "train"}
    assert scored < set(before)
    assert all(before[key]["tags"][KEY_TAG] == key for key in scored)

    local.stop_services(finished.home.path, names=["mlflow"])
    (finished.home.path / "mlflow" / "mlflow.db").unlink()
    for _ in range(2):  # the second time nothing is left to write
        result = finished.home.run("sync", finished.sweep)
        assert result.code == 0, result
        assert content(finished) == before


def test_scores_are_plotted_against_sparsity(finished: FinishedSweep) -> None:
    curves = [
        run["metrics"]["score"]
        for key, run in content(finished).items()
        if run["params"].get("source") == "imp" and key not in finished.records
    ]
    assert [[step for step, _, _ in curve] for curve in curves] == [[0, 30, 60]] * 2
