"""MLflow is a projection of the store: an empty database can be rebuilt from it."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from cluster.local import servers as local
from orchestrator.tracking.experiment import KEY_TAG, PARENT_TAG, Experiment, open_experiment
from tests.support.browser import visit
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


def test_the_printed_link_opens_one_chart_with_all_curves(
    finished: FinishedSweep, tmp_path: Path
) -> None:
    """Chromium opens what `run` printed. The other commands print the same link."""
    link = mlflow_link(finished.result.out)
    runs = [run for run in content(finished).values() if run["params"]["kind"] == "curve"]
    curves = {run["tags"]["mlflow.runName"] for run in runs}
    assert {"IMP θ₀ s0", "IMP θ₂ s0", "random θ₀ s0", "dense s0", "without image"} < curves
    dom, _ = visit(link, 1700, tmp_path, "--virtual-time-budget=30000")
    cards = re.findall(r'data-testid="experiment-view-compare-runs-card"', dom)
    assert len(cards) == 1
    legend = re.findall(r">([^<>]+) \(score_by_sparsity\)<", html.unescape(dom))
    assert sorted(legend) == sorted(curves)
    lines = re.findall(r'class="js-line" d="M[^"]+" style="[^"]*stroke: rgb\(([^)]+)\)', dom)
    colors = {",".join(map(str, bytes.fromhex(run["tags"]["mlflow.runColor"][1:]))) for run in runs}
    assert {color.replace(" ", "") for color in lines} == colors

    home, sweep = finished.home, finished.sweep
    dense = next(cell.trial for cell in finished.plan.cells if cell.level == 0)
    assert mlflow_link(home.run("report", sweep).out) == link
    assert link in home.run("explain", sweep, dense).out
    ui = home.start("ui")
    try:
        assert ui.stdout is not None
        assert any(link in line for line in ui.stdout)
    finally:
        ui.terminate()
        ui.wait()


def mlflow_link(printed: str) -> str:
    (link,) = re.findall(r"^MLflow +(http\S+/#/\S+)$", printed, re.MULTILINE)
    return str(link)


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
        run["metrics"]["score_by_sparsity"]
        for run in content(finished).values()
        if (run["params"].get("source"), run["params"]["kind"]) == ("imp", "curve")
    ]
    assert [[step for step, _, _ in curve] for curve in curves] == [[0, 30, 60]] * 2
