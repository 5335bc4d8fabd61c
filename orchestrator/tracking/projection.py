"""Making an experiment hold what plan and records say, writing only what it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.plan.graph import Cell, Curve, Plan
from orchestrator.plan.keys import canonical
from orchestrator.store.record import Record
from orchestrator.tracking import content
from orchestrator.tracking.experiment import (
    FILES,
    MARKS,
    PARENT,
    Experiment,
    Held,
    connect,
    digest_of,
)


def sync(
    plan: Plan, records: Mapping[str, Record], uri: str, report_dir: Path | None = None
) -> None:
    """Make the sweep's experiment show `records`, and the files under `report_dir`.

    Idempotent; after the database was lost, its params, tags and metrics come back the same under
    new run ids. Raises `mlflow.exceptions.MlflowException` if the server cannot be used.
    """
    projection = Projection(plan, connect(uri, plan.name))
    projection.put(record for key, record in records.items() if key in plan.trials)
    if report_dir is not None:
        projection.put_report(report_dir)


@dataclass(slots=True, init=False)
class Projection:
    """The runs of one experiment, as MLflow has them and as the records want them."""

    experiment: Experiment
    records: dict[str, Record]
    """Of training runs, all that were put."""
    curves: dict[Curve, list[Cell]]
    asked_by: dict[str, list[Cell]]
    """The cells of each trial, in plan order."""
    adds_to: dict[str, list[Curve]]
    """The curves that each trial is a point of."""
    runs: dict[str, Held]

    def __init__(self, plan: Plan, experiment: Experiment) -> None:
        self.experiment, self.records = experiment, {}
        self.runs = experiment.runs()
        self.curves = content.curves(plan)
        self.asked_by, self.adds_to = {}, {}
        for cell in plan.cells:
            self.asked_by.setdefault(cell.trial, []).append(cell)
        for curve, cells in self.curves.items():
            for cell in cells:
                self.adds_to.setdefault(cell.trial, []).append(curve)

    def put(self, records: Iterable[Record]) -> None:
        """Project records, and each curve that they add points to once: a server takes a few calls
        a second, and where many records wait it is the calls that count."""
        runs = [record for record in records if record.kind == "train"]
        self.records |= {record.key: record for record in runs}
        if any(record.key not in self.runs for record in runs):
            self.runs = self.experiment.live() | self.runs  # workers' runs since they were listed
        for record in runs:
            self._put_trial(record)
        for curve in dict.fromkeys(c for record in runs for c in self.adds_to.get(record.key, ())):
            self._put_curve(curve)

    def _put_trial(self, record: Record) -> None:
        cells = self.asked_by.get(record.key, [])
        wanted = content.trial_content(record, cells)
        self._put(record.key, wanted, {PARENT: self._parent(cells[0].curve)} if cells else {})

    def _put_curve(self, curve: Curve) -> None:
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
        if run is not None and run.marks.get(FILES) == digest:
            return
        run = run or self.experiment.create("summary", "report")
        self.experiment.attach(run.id, folder)
        self.experiment.log(run.id, [], {}, {FILES: digest})
        self.experiment.finish(run.id, "FINISHED")

    def _parent(self, curve: Curve) -> str:
        key = content.curve_key(curve, self.curves[curve])
        if key not in self.runs:
            self.runs[key] = self.experiment.create(key, content.curve_name(curve))
        return self.runs[key].id

    def _put(self, key: str, wanted: content.Content, links: Mapping[str, str]) -> None:
        """Make the run of `key` hold `wanted`: no call at all if it does already."""
        tags = {**wanted.tags(), **links}
        marks = {name: tags[name] for name in MARKS if name in tags}
        run = self.runs.get(key)
        if run is not None and run.marks == marks:
            return
        params = digest_of(wanted.params)
        if run is not None and run.params not in ("", params):
            self.experiment.delete(run.id)  # labels were edited; params cannot be
            run = None
        run = run or self.experiment.create(key, wanted.name, wanted.start)
        self.experiment.log(run.id, wanted.points, wanted.params, tags)
        status: Literal["RUNNING", "FINISHED"] = "RUNNING" if wanted.end is None else "FINISHED"
        if status != run.status:
            self.experiment.finish(run.id, status, wanted.end)
        self.runs[key] = Held(run.id, status, marks, params)
