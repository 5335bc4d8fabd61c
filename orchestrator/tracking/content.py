"""Content of a sweep's MLflow runs: a pure function of plan and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from orchestrator.plan.graph import DENSE, Cell, Curve, Plan
from orchestrator.plan.keys import canonical_sha256
from orchestrator.store.record import Record
from orchestrator.tracking.experiment import COLOR_TAG, CONTENT_TAG, RUN_NAME_TAG, MetricPoint
from orchestrator.tracking.names import PRIOR, CurveNames, curve_label
from orchestrator.tracking.views import CURVE, SCORE, TRAINING_RUN


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContent:
    name: str
    params: Mapping[str, str]
    """Also written as tags: the UI filters by tags and compares by params."""
    extra_tags: Mapping[str, str]
    """Written as tags only: these may change during a run."""
    points: Sequence[MetricPoint]
    start: int
    end: int | None
    """`start` and `end` are in milliseconds since 1970; `end` is None while the run is
    incomplete."""

    def all_tags(self) -> dict[str, str]:
        """Return all tags except those that link runs. The last one is a digest of the content."""
        body = [self.name, *map(dict, (self.params, self.extra_tags)), list(map(list, self.points))]
        digest = canonical_sha256([*body, self.end])
        return {**self.params, **self.extra_tags, RUN_NAME_TAG: self.name, CONTENT_TAG: digest}


def cells_by_curve(plan: Plan) -> dict[Curve, list[Cell]]:
    """Return the cells of each curve by level, starting with the dense run of its seed, if any."""
    curves: dict[Curve, list[Cell]] = {}
    dense: dict[Curve, Cell] = {}
    for cell in plan.cells:
        curves.setdefault(cell.curve, []).append(cell)
        if cell.curve.source == DENSE:
            dense[_dense_curve(cell.curve)] = cell
    for curve, cells in curves.items():
        start = dense.get(_dense_curve(curve))
        if start is not None and all(cell.level for cell in cells):
            cells.insert(0, start)
    return curves


def _dense_curve(curve: Curve) -> Curve:
    """The curve of the dense run with the same model, task, recipe and seed."""
    return replace(curve, schedule="", rewind=0, source=DENSE)


def curve_key(curve: Curve, cells: Sequence[Cell]) -> str:
    """Return the key of a curve's run.

    It depends on the first trial, so that a sweep whose recipe was edited under its old name gets
    new curves instead of mixing two into one.
    """
    parts = [*asdict(curve).values(), cells[0].trial]
    return f"curve-{canonical_sha256(parts)}"


def prior_key(problem: Curve) -> str:
    """Return the key of the run that shows the score without the image."""
    return f"prior-{canonical_sha256(list(asdict(problem).values()))}"


def problem_of(curve: Curve) -> Curve:
    """Return what all curves of one study, model, task and recipe have in common: they are
    compared with the same dense runs, and with one score without the image."""
    return replace(_dense_curve(curve), seed=0)


def steps_by_problem(plan: Plan) -> dict[Curve, list[int]]:
    """Return the steps of all curves of each problem, along which its dense runs are drawn."""
    steps: dict[Curve, set[int]] = {}
    for cell in plan.cells:
        steps.setdefault(problem_of(cell.curve), set()).add(_step(cell))
    return {problem: sorted(values | {0}) for problem, values in steps.items()}


def prior_curve(problem: Curve) -> Curve:
    return replace(problem, source=PRIOR)


def curve_content(
    names: CurveNames,
    curve: Curve,
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    steps: Sequence[int],
) -> RunContent | None:
    """Return scores at step = sparsity in percent; None while no cell has one.

    A dense run, which has one score, has it at all of `steps`: a horizontal line.
    """
    done = [(cell, records[cell.trial]) for cell in cells if cell.trial in records]
    points = [
        (SCORE, record.scores["score"], step, _milliseconds(record))
        for cell, record in done
        if "score" in record.scores
        for step in (steps if curve.source == DENSE else [_step(cell)])
    ]
    if not points:
        return None
    times = [_milliseconds(record) for _, record in done]
    return RunContent(
        name=names.name(curve),
        params=_curve_params(curve),
        extra_tags={COLOR_TAG: names.color(curve), "cells": f"{len(done)} of {len(cells)}"},
        points=points,
        start=min(times),
        end=max(times) if len(done) == len(cells) else None,
    )


def prior_content(
    names: CurveNames, problem: Curve, record: Record, steps: Sequence[int]
) -> RunContent | None:
    """Return the score without the image, as `record` has it, at all of `steps`; None if the task
    has none."""
    prior, when = record.scores.get("prior"), _milliseconds(record)
    if prior is None:
        return None
    curve = prior_curve(problem)
    # With the score among the params, another one replaces the run instead of adding points.
    params = _curve_params(curve) | {"rewind": "", "seed": "", "prior": repr(prior)}
    return RunContent(
        name=names.name(curve),
        params=params,
        extra_tags={COLOR_TAG: names.color(curve)},
        points=[(SCORE, prior, step, when) for step in steps],
        start=when,
        end=when,
    )


def _curve_params(curve: Curve) -> dict[str, str]:
    params = {name: str(value) for name, value in asdict(curve).items()}
    return {"kind": CURVE, "curve": curve_label(curve), **params}


def _step(cell: Cell) -> int:
    return round(100 * cell.sparsity)


def trial_content(record: Record, cells: Sequence[Cell], names: CurveNames) -> RunContent:
    """Return the content of the run for training run `record`, which is the trial of `cells`.

    Its params are those of the first cell. The history is logged unchanged, and the scores as
    `final/…` at the last step.
    """
    labels, ticket = record.labels, record.ticket
    params = {
        "kind": TRAINING_RUN,
        "trial": record.key,
        "model": str(labels.get("model", "")),
        "task": str(labels.get("task", "")),
        "level": str(labels.get("level", 0)),
        "ticket": ticket.sha256 if ticket else "",
        "sparsity": f"{1 - ticket.kept / ticket.total:.6f}" if ticket else "0",
    }
    name = f"trial {record.key[:12]}"
    if cells:
        curve, level = cells[0].curve, cells[0].level
        params |= {k: str(v) for k, v in asdict(curve).items()} | {"level": str(level)}
        name = names.name(curve, f"{_step(cells[0])} % " if level else "")
    end = _milliseconds(record)
    steps = int(record.costs.get("steps", 0))
    points = [(f"final/{score}", value, steps, end) for score, value in record.scores.items()]
    points += [
        (metric, value, int(values["step"]), end)
        for values in record.history
        for metric, value in values.items()
        if metric != "step"
    ]
    return RunContent(
        name=name,
        params=params,
        extra_tags={"shared_by": f"{len(cells)} cells"} if len(cells) > 1 else {},
        points=points,
        start=end - round(1000 * record.costs.get("seconds", 0.0)),
        end=end,
    )


def _milliseconds(record: Record) -> int:
    """When the record was created: a rebuilt database must have the same timestamps."""
    return round(1000 * datetime.fromisoformat(record.created_at).timestamp())
