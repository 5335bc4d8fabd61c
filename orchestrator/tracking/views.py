"""How a sweep looks in MLflow's UI: saved views of its chart, links that open them, and the note.

MLflow's UI saves a view as JSON in a tag of the experiment, and a link with `viewStateShareKey`
restores it. Without one, its page shows the ten newest runs of any kind, with a chart for each
metric. This module imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

SCORE = "score_by_sparsity"
"""Metric of curves: the score at step = sparsity in percent. No training run logs it, so no chart
joins sparsities with optimizer steps."""
CURVE, TRAINING_RUN, REPORT = "curve", "run", "report"
"""Values of the param `kind`."""
ALL_CURVES, MEANS = "curves", "means"
"""The saved views: each curve of each seed, and the means over seeds."""
NOTE_TAG = "mlflow.note.content"
_SECTION = "score-by-sparsity"
_HEIGHT = 520
"""Height of the chart in pixels."""
_FIGURE = "figures/score-*.png"


def view_tags(grouping: Sequence[str]) -> dict[str, str]:
    """Return the tags of an experiment that make the UI show its curves.

    `grouping` are the params that all seeds of a curve share and that tell it from other curves.
    """
    groups = [{"mode": "param", "groupByData": name} for name in grouping]
    group_by = {"aggregateFunction": "average", "groupByKeys": groups}
    return {
        f"mlflow.sharedViewState.{ALL_CURVES}": json.dumps(_view()),
        f"mlflow.sharedViewState.{MEANS}": json.dumps({**_view(), "groupBy": group_by}),
    }


def _view() -> dict[str, Any]:
    chart = {
        "type": "LINE",
        "uuid": SCORE,
        "metricSectionId": _SECTION,
        "metricKey": SCORE,
        "selectedMetricKeys": [SCORE],
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
        "displayPoints": True,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False,
    }
    section = {
        "uuid": _SECTION,
        "name": "Model metrics",
        "display": True,
        "columns": 1,
        "cardHeight": _HEIGHT,
        "isReordered": False,
        "deleted": False,
        "isGenerated": True,
    }
    return {
        "searchFilter": f'params.kind = "{CURVE}"',
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "useGroupedValuesInCharts": True,
        "compareRunCharts": [chart],
        "compareRunSections": [section],
    }


def chart_link(uri: str, experiment: str, view: str = ALL_CURVES) -> str:
    """Return the link to the chart of the experiment with this id. `uri` is the address of the
    server; with an empty one the link is relative to MLflow's page."""
    query = {
        "workflowType": "machine_learning",
        "compareRunsMode": "CHART",
        "viewStateShareKey": view,
    }
    return f"{_page(uri)}experiments/{experiment}/runs?{urlencode(query)}"


def _page(uri: str) -> str:
    return f"{uri.rstrip('/')}/#/" if uri else "#/"


def note(headline: Sequence[str], experiment: str, report_run: str, folder: Path) -> str:
    """Return the experiment's description in Markdown: links, the verdict, and the first figure.

    The links come first, since the UI shows one line until the description is opened. It shows it
    on the page that a click on the experiment opens, too, which is about traces of language models.
    `report_run` is the id of the run that has the files under `folder`.
    """
    views = {"Curves": ALL_CURVES, "means over seeds": MEANS}
    links = [f"[{name}]({chart_link('', experiment, view)})" for name, view in views.items()]
    if (folder / "report.html").exists():
        page = f"#/experiments/{experiment}/runs/{report_run}/artifacts/report.html"
        links.append(f"[report]({page}?workflowType=machine_learning)")
    paragraphs = [" · ".join(links), *headline]
    for figure in sorted(folder.glob(_FIGURE))[:1]:
        query: Mapping[str, str] = {
            "path": figure.relative_to(folder).as_posix(),
            "run_uuid": report_run,
        }
        paragraphs.append(f"![Score against sparsity](get-artifact?{urlencode(query)})")
    return "\n\n".join(paragraphs)
