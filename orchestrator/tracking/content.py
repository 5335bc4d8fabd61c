"""What the runs of a sweep shall hold: a pure function of plan and records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from orchestrator.plan.graph import DENSE, Cell, Curve, Plan
from orchestrator.plan.keys import canonical
from orchestrator.store.record import Record
from orchestrator.tracking.experiment import CONTENT, NAME, Point


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    name: str
    params: Mapping[str, str]
    """Written as tags too: the UI filters by tags and compares by params."""
    extra: Mapping[str, str]
    """Tags only: what may change without the run being another."""
    points: Sequence[Point]
    start: int
    end: int | None
    """Milliseconds; None while the run lacks something."""

    def tags(self) -> dict[str, str]:
        """All tags but those that link runs; the last is a digest of everything else."""
        body = [self.name, *map(dict, (self.params, self.extra)), list(map(list, self.points))]
        digest = hashlib.sha256(canonical([*body, self.end])).hexdigest()
        return {**self.params, **self.extra, NAME: self.name, CONTENT: digest}


def curves(plan: Plan) -> dict[Curve, list[Cell]]:
    """The cells of each curve by level, the dense run of its seed first, where there is one."""
    found: dict[Curve, list[Cell]] = {}
    dense: dict[Curve, Cell] = {}
    for cell in plan.cells:
        found.setdefault(cell.curve, []).append(cell)
        if cell.curve.source == DENSE:
            dense[_bare(cell.curve)] = cell
    for curve, cells in found.items():
        start = dense.get(_bare(curve))
        if start is not None and all(cell.level for cell in cells):
            cells.insert(0, start)
    return found


def _bare(curve: Curve) -> Curve:
    """What decides a curve's dense run."""
    return replace(curve, schedule="", rewind=0, source=DENSE)


def curve_key(curve: Curve, cells: Sequence[Cell]) -> str:
    """Names the curve and, by its first trial, the science behind it: a sweep whose recipe was
    edited under its old name gets new curves instead of mixing two into one."""
    parts = [*asdict(curve).values(), cells[0].trial]
    return f"curve-{hashlib.sha256(canonical(parts)).hexdigest()}"


def curve_name(curve: Curve) -> str:
    """What tells curves apart comes first: the UI's list shows some 20 characters."""
    return f"{curve.source} θ{curve.rewind} s{curve.seed} · {curve.model} · {curve.task}"


def curve_content(
    curve: Curve, cells: Sequence[Cell], records: Mapping[str, Record]
) -> Content | None:
    """Scores at step = sparsity in percent; None while no cell has one."""
    done = [(cell, records[cell.trial]) for cell in cells if cell.trial in records]
    if not done:
        return None
    points = [
        (name, record.scores[name], round(100 * cell.sparsity), _milliseconds(record))
        for cell, record in done
        for name in ("score", "prior")
        if name in record.scores
    ]
    times = [_milliseconds(record) for _, record in done]
    return Content(
        name=curve_name(curve),
        params={name: str(value) for name, value in asdict(curve).items()},
        extra={"cells": f"{len(done)} of {len(cells)}"},
        points=points,
        start=min(times),
        end=max(times) if len(done) == len(cells) else None,
    )


def trial_content(record: Record, cells: Sequence[Cell]) -> Content:
    """The training run `record`, which `cells` ask for: labels by the first of them, the history as
    it is, the scores under `final/` at the last step."""
    about, ticket = record.about, record.ticket
    params = {
        "trial": record.key,
        "model": str(about.get("model", "")),
        "task": str(about.get("task", "")),
        "level": str(about.get("level", 0)),
        "ticket": ticket.sha256 if ticket else "",
        "sparsity": f"{1 - ticket.kept / ticket.total:.6f}" if ticket else "0",
    }
    name = f"trial {record.key[:12]}"
    if cells:
        curve, level = cells[0].curve, cells[0].level
        params |= {k: str(v) for k, v in asdict(curve).items()} | {"level": str(level)}
        name = f"level {level} · {curve_name(curve)}"
    end = _milliseconds(record)
    steps = int(record.costs.get("steps", 0))
    points = [(f"final/{score}", value, steps, end) for score, value in record.scores.items()]
    points += [
        (metric, value, int(at["step"]), end)
        for at in record.history
        for metric, value in at.items()
        if metric != "step"
    ]
    return Content(
        name=name,
        params=params,
        extra={"shared_by": f"{len(cells)} cells"} if len(cells) > 1 else {},
        points=points,
        start=end - round(1000 * record.costs.get("seconds", 0.0)),
        end=end,
    )


def _milliseconds(record: Record) -> int:
    """When the record was made: a rebuilt database must carry the same time stamps."""
    return round(1000 * datetime.fromisoformat(record.created).timestamp())
