"""Update an experiment from a plan and its records, writing only what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.plan.graph import Cell, Curve, Plan
from orchestrator.plan.keys import canonical_sha256
from orchestrator.store.record import Record
from orchestrator.tracking import content, views
from orchestrator.tracking.experiment import (
    FILES_TAG,
    PARENT_TAG,
    STATE_TAGS,
    Experiment,
    StoredRun,
    digest_params,
    open_experiment,
)
from orchestrator.tracking.names import CurveNames
from orchestrator.tracking.views import REPORT, view_tags


def sync(
    plan: Plan,
    records: Mapping[str, Record],
    uri: str,
    report_dir: Path | None = None,
    headline: Sequence[str] = (),
) -> None:
    """Update the sweep's experiment with `records`, and with the files under `report_dir`.

    `headline` is the report's result in sentences, for the experiment's description.

    The update is idempotent. After a lost database, params, tags and metrics are restored
    identically under new run ids.

    Raises:
        mlflow.exceptions.MlflowException: the server cannot be used.
    """
    projection = Projection(plan, open_experiment(uri, plan.name))
    projection.put(record for key, record in records.items() if key in plan.trials)
    if report_dir is not None:
        projection.put_report(report_dir, headline)


@dataclass(slots=True, init=False)
class Projection:
    """The runs of one experiment: their state in MLflow, and the plan and records they show."""

    experiment: Experiment
    records: dict[str, Record]
    """All training runs that were put."""
    cells_by_curve: dict[Curve, list[Cell]]
    cells_by_trial: dict[str, list[Cell]]
    """The cells of each trial, in plan order."""
    curves_by_trial: dict[str, list[Curve]]
    """The curves that each trial is a point of."""
    steps: dict[Curve, list[int]]
    """The steps of all curves of each problem."""
    prior_trials: dict[Curve, str]
    """The trial of each problem whose record says the score without the image."""
    names: CurveNames
    runs: dict[str, StoredRun]

    def __init__(self, plan: Plan, experiment: Experiment) -> None:
        self.experiment, self.records = experiment, {}
        self.runs = experiment.runs()
        self.steps = content.steps_by_problem(plan)
        self.prior_trials = {}
        for cell in plan.cells:
            self.prior_trials.setdefault(content.problem_of(cell.curve), cell.trial)
        priors = map(content.prior_curve, self.prior_trials)
        self.names = CurveNames([*(cell.curve for cell in plan.cells), *priors])
        experiment.set_tags(view_tags(self.names.grouping))
        self.cells_by_curve = content.cells_by_curve(plan)
        self.cells_by_trial, self.curves_by_trial = {}, {}
        for cell in plan.cells:
            self.cells_by_trial.setdefault(cell.trial, []).append(cell)
        for curve, cells in self.cells_by_curve.items():
            for cell in cells:
                self.curves_by_trial.setdefault(cell.trial, []).append(curve)

    def put(self, records: Iterable[Record]) -> None:
        """Project records, and update each curve that they add points to only once: a server
        handles a few calls per second, so the number of calls matters when many records wait."""
        runs = [record for record in records if record.kind == "train"]
        self.records |= {record.key: record for record in runs}
        if any(record.key not in self.runs for record in runs):
            # Workers may have created runs since the runs were listed.
            self.runs = self.experiment.live_runs() | self.runs
        changed = {c: None for record in runs for c in self.curves_by_trial.get(record.key, ())}
        for curve in changed:
            self._put_curve(curve)
        for problem in dict.fromkeys(map(content.problem_of, changed)):
            self._put_prior(problem)
        for record in runs:  # after their parents, which may have been replaced
            self._put_trial(record)

    def _put_trial(self, record: Record) -> None:
        cells = self.cells_by_trial.get(record.key, [])
        wanted = content.trial_content(record, cells, self.names)
        self._put(record.key, wanted, {PARENT_TAG: self._parent(cells[0].curve)} if cells else {})

    def _put_curve(self, curve: Curve) -> None:
        cells = self.cells_by_curve[curve]
        steps = self.steps[content.problem_of(curve)]
        wanted = content.curve_content(self.names, curve, cells, self.records, steps)
        if wanted is not None:
            self._put(content.curve_key(curve, cells), wanted, {})

    def _put_prior(self, problem: Curve) -> None:
        record = self.records.get(self.prior_trials[problem])
        if record is not None:
            wanted = content.prior_content(self.names, problem, record, self.steps[problem])
            if wanted is not None:
                self._put(content.prior_key(problem), wanted, {})

    def put_report(self, folder: Path, headline: Sequence[str]) -> None:
        """Attach the files under `folder` to the summary run, unless it already has them, and
        describe the experiment by `headline`, with a figure and a link to the report."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        parts = [
            [str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()]
            for path in files
        ]
        digest = canonical_sha256(parts)
        run = self.runs.get("summary")
        if run is None or run.state_tags.get(FILES_TAG) != digest or not run.params_digest:
            run = run or self.experiment.create_run("summary", "report")
            self.experiment.log_artifacts(run.id, folder)
            self.experiment.log(run.id, [], {"kind": REPORT}, {FILES_TAG: digest})
            self.experiment.end_run(run.id, "FINISHED")
        note = views.note(headline, self.experiment.id, run.id, folder)
        self.experiment.set_tags({views.NOTE_TAG: note})

    def _parent(self, curve: Curve) -> str:
        key = content.curve_key(curve, self.cells_by_curve[curve])
        if key not in self.runs:
            self.runs[key] = self.experiment.create_run(key, self.names.name(curve))
        return self.runs[key].id

    def _put(self, key: str, wanted: content.RunContent, links: Mapping[str, str]) -> None:
        """Make the run of `key` hold `wanted`. Makes no call if it already does."""
        tags = {**wanted.all_tags(), **links}
        state_tags = {name: tags[name] for name in STATE_TAGS if name in tags}
        run = self.runs.get(key)
        if run is not None and run.state_tags == state_tags:
            return
        params = digest_params(wanted.params)
        if run is not None and run.params_digest not in ("", params):
            self.experiment.delete_run(run.id)  # the labels changed, and params are immutable
            run = None
        run = run or self.experiment.create_run(key, wanted.name, wanted.start)
        self.experiment.log(run.id, wanted.points, wanted.params, tags)
        status: Literal["RUNNING", "FINISHED"] = "RUNNING" if wanted.end is None else "FINISHED"
        if status != run.status:
            self.experiment.end_run(run.id, status, wanted.end)
        self.runs[key] = StoredRun(run.id, status, state_tags, params)
