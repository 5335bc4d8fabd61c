"""MLflow is a projection: what the store holds can be put into an empty database again."""

from __future__ import annotations

from typing import Any

from cluster.local import servers as local
from orchestrator.tracking.experiment import KEY, PARENT, Experiment, connect
from tests.support.finished import Finished


def content(finished: Finished) -> dict[str, dict[str, Any]]:
    """All that MLflow holds of the sweep, by the keys of the runs: run ids are MLflow's own."""
    services = local.start(finished.home.path, names=["mlflow"])
    experiment = connect(services.mlflow_uri, finished.plan.name)
    keys = {run.id: key for key, run in experiment.runs().items()}
    return {key: run_content(experiment, run_id, keys) for run_id, key in keys.items()}


def run_content(experiment: Experiment, run_id: str, keys: dict[str, str]) -> dict[str, Any]:
    run = experiment.client.get_run(run_id)
    tags = dict(run.data.tags)
    tags[PARENT] = keys[tags[PARENT]] if PARENT in tags else ""
    # Live curves are sent while a trial runs and kept nowhere else; the record has the same
    # numbers, and these come back.
    metrics = {
        name: sorted(
            (point.step, point.value, point.timestamp)
            for point in experiment.client.get_metric_history(run_id, name)
        )
        for name in run.data.metrics
        if not name.startswith("live/")
    }
    return {"params": dict(run.data.params), "tags": tags, "metrics": metrics}


def test_a_deleted_database_comes_back_with_the_same_content(finished: Finished) -> None:
    before = content(finished)
    scored = {key for key, record in finished.records.items() if record.kind == "train"}
    assert scored < set(before)
    assert all(before[key]["tags"][KEY] == key for key in scored)

    local.stop(finished.home.path, names=["mlflow"])
    (finished.home.path / "mlflow" / "mlflow.db").unlink()
    for _ in range(2):  # the second time there is nothing left to write
        ended = finished.home.call("sync", finished.sweep)
        assert ended.code == 0, ended
        assert content(finished) == before


def test_score_is_drawn_against_sparsity(finished: Finished) -> None:
    curves = [
        run["metrics"]["score"]
        for key, run in content(finished).items()
        if run["params"].get("source") == "imp" and key not in finished.records
    ]
    assert [[step for step, _, _ in curve] for curve in curves] == [[0, 30, 60]] * 2
