"""Making an experiment hold what plan and records say, writing only what it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.identity import canonical
from orchestrator.plan import Cell, Curve, Plan
from orchestrator.store.record import Record
from orchestrator.tracking import content
from orchestrator.tracking.experiment import PARENT, Experiment, connect

if TYPE_CHECKING:
    from mlflow.entities import Run

_FILES = "sweepstakes.files"


def sync(
    plan: Plan, records: Mapping[str, Record], uri: str, report_dir: Path | None = None
) -> None:
    """Make the sweep's experiment show `records`, and the files under `report_dir`.

    Idempotent; after the database was lost, its params, tags and metrics come back the same under
    new run ids. Raises `mlflow.exceptions.MlflowException` if the server cannot be used.
    """
    projection = Projection(plan, connect(uri, plan.name), records)
    for trial in plan.training_runs():
        if trial.key in records:
            projection.put_trial(trial.key)
    for curve in projection.curves:
        projection.put_curve(curve)
    if report_dir is not None:
        projection.put_report(report_dir)


@dataclass(slots=True, init=False)
class Projection:
    """The runs of one experiment, as MLflow has them and as the records want them."""

    experiment: Experiment
    records: dict[str, Record]
    curves: dict[Curve, list[Cell]]
    asked_by: dict[str, list[Cell]] = field(default_factory=dict)
    """The cells of each trial, in plan order."""
    adds_to: dict[str, list[Curve]] = field(default_factory=dict)
    """The curves that each trial is a point of."""
    runs: dict[str, Run] = field(default_factory=dict)

    def __init__(self, plan: Plan, experiment: Experiment, records: Mapping[str, Record]) -> None:
        self.experiment, self.records = experiment, dict(records)
        self.runs = experiment.runs()
        self.curves = content.curves(plan)
        self.asked_by, self.adds_to = {}, {}
        for cell in plan.cells:
            self.asked_by.setdefault(cell.trial, []).append(cell)
        for curve, cells in self.curves.items():
            for cell in cells:
                self.adds_to.setdefault(cell.trial, []).append(curve)

    def put_record(self, record: Record) -> None:
        """Project one new record and the curves that it adds a point to."""
        self.records[record.key] = record
        if record.kind != "train":
            return
        if record.key not in self.runs:  # a worker's live run may have appeared meanwhile
            live = self.experiment.find(record.key)
            if live is not None:
                self.runs[record.key] = live
        self.put_trial(record.key)
        for curve in self.adds_to.get(record.key, ()):
            self.put_curve(curve)

    def put_trial(self, key: str) -> None:
        cells = self.asked_by.get(key, [])
        wanted = content.trial_content(self.records[key], cells)
        self._put(key, wanted, {PARENT: self._parent(cells[0].curve)} if cells else {})

    def put_curve(self, curve: Curve) -> None:
        cells = self.curves[curve]
        wanted = content.curve_content(curve, cells, self.records)
        if wanted is not None:
            self._put(content.curve_key(curve, cells), wanted, {})

    def put_report(self, folder: Path) -> None:
        """Attach the files under `folder` to the summary run, unless it has just these."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        parts = [
            [str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()]
            for path in files
        ]
        digest = hashlib.sha256(canonical(parts)).hexdigest()
        run = self.runs.get("summary")
        if run is not None and run.data.tags.get(_FILES) == digest:
            return
        run = run or self.experiment.create("summary", "report")
        self.experiment.attach(run.info.run_id, folder)
        self.experiment.log(run.info.run_id, [], {}, {_FILES: digest})
        self.experiment.finish(run.info.run_id, "FINISHED")

    def _parent(self, curve: Curve) -> str:
        key = content.curve_key(curve, self.curves[curve])
        if key not in self.runs:
            self.runs[key] = self.experiment.create(key, content.curve_name(curve))
        return str(self.runs[key].info.run_id)

    def _put(self, key: str, wanted: content.Content, links: Mapping[str, str]) -> None:
        """Make the run of `key` hold `wanted`: no call at all if it does already."""
        tags = {**wanted.tags(), **links}
        run = self.runs.get(key)
        if run is not None and run.data.tags.items() >= tags.items():
            return
        if run is not None and not wanted.params.items() >= run.data.params.items():
            self.experiment.delete(run.info.run_id)  # labels were edited; params cannot be
            run = None
        run = run or self.experiment.create(key, wanted.name, wanted.start)
        self.experiment.log(run.info.run_id, wanted.points, wanted.params, tags)
        status: Literal["RUNNING", "FINISHED"] = "RUNNING" if wanted.end is None else "FINISHED"
        if status != run.info.status:
            self.experiment.finish(run.info.run_id, status, wanted.end)
        run.data.tags.update(tags)  # as a fresh reading would find it
        run.data.params.update(wanted.params)
        self.runs[key] = run
