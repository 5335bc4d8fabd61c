"""Tidy tables from a plan and its records: a row per cell and score, a row per level over seeds.

A task may show several scores (`TaskEntry.columns`: image and text retrieval); each is a *column*,
the pair (task, metric), and a cell has a row for each. A cell without a record stays in every
table, as `missing`, `failed` or `blocked`: a partial sweep must look partial.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from orchestrator.plan.graph import DENSE, Cell, Plan
from orchestrator.store.record import Record
from trainables.spec import ModelSpec, TrainSpec
from trainables.tasks import TASKS

State: TypeAlias = Literal["done", "failed", "blocked", "missing"]

COLUMN = ["task", "metric"]
"""Columns that name a column of the paper's tables; `metric` is empty where a task has one."""
PROBLEM = ["model", *COLUMN, "recipe"]
"""Columns that say which dense network a ticket is measured against."""
CURVE = [*PROBLEM, "schedule", "rewind", "source", "part"]
"""Columns that say which line of a figure a cell belongs to, seeds aside.

Studies that ask for the same curve at other levels or seeds add to one line, so `study` is not
among them. `part` is empty but where studies give one curve different trials at the same level and
seed (another pool, another cut): then it is the study's name, and each has a line of its own.
"""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the labels of a sweep file stand for."""

    models: Mapping[str, ModelSpec]
    tasks: Mapping[str, str]
    """Label -> name in `TASKS`."""

    def pretraining(self, task: str) -> bool:
        return task in self.tasks and TASKS[self.tasks[task]].pretraining


def labels(plan: Plan) -> Labels:
    """Of the plan's training runs, rounds of pre-training included."""
    specs = [(t.model, t.task, t.spec) for t in plan.training_runs()]
    specs += [(c.curve.model, c.curve.task, plan.trials[c.trial].spec) for c in plan.cells]
    models: dict[str, ModelSpec] = {}
    tasks: dict[str, str] = {}
    for model, task, spec in specs:
        assert isinstance(spec, TrainSpec)
        models[model] = spec.model
        tasks[task] = spec.task.name
    return Labels(models, tasks)


def states(plan: Plan, records: Mapping[str, Record], failed: Collection[str]) -> dict[str, State]:
    """The state of every trial; `blocked` if a trial that it needs failed and it is not done."""
    found: dict[str, State] = {}
    for trial in plan:
        needs = (*trial.parents, *([trial.rides] if trial.rides else []))
        if trial.key in records:
            found[trial.key] = "done"
        elif trial.key in failed:
            found[trial.key] = "failed"
        elif any(found.get(need) in ("failed", "blocked") for need in needs):
            found[trial.key] = "blocked"
        else:
            found[trial.key] = "missing"
    return found


def cells(plan: Plan, records: Mapping[str, Record], failed: Collection[str] = ()) -> pd.DataFrame:
    """One row per cell of the plan and metric of its task, in the plan's order.

    Scores are in percent, sparsities in 0..1. `sparsity` is exact (1 - kept / total) where the
    ticket exists, else as planned; `cut` is the key of the trial that cuts it.
    """
    state = states(plan, records, failed)
    rows = [
        row
        for cell in plan.cells
        for row in _cell_rows(cell, plan.trials[cell.trial].spec, records, state[cell.trial])
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    return table.assign(part=_parts(table))


_COLUMNS = {
    **dict.fromkeys(("study", *PROBLEM, "adversary", "schedule"), "str"),
    "rewind": "int64",
    **dict.fromkeys(("source", "part"), "str"),
    "seed": "int64",
    "level": "int64",
    "planned_sparsity": "float64",
    "sparsity": "float64",
    **dict.fromkeys(("score", "best", "last", "prior", "seconds"), "float64"),
    **dict.fromkeys(("kept", "total"), "Int64"),
    **dict.fromkeys(("state", "trial", "cut", "ticket"), "str"),
}


def _cell_rows(
    cell: Cell, spec: object, records: Mapping[str, Record], state: State
) -> Iterator[dict[str, object]]:
    assert isinstance(spec, TrainSpec)
    record, cut = records.get(cell.trial), records.get(cell.ticket)
    ticket = (record and record.ticket) or (cut and cut.ticket)
    scores = record.scores if record else {}
    exact = 1 - ticket.kept / ticket.total if ticket and ticket.total else cell.sparsity
    for key, metric in TASKS[spec.task.name].columns.items():
        beside = ("best", "last", "prior") if key == "score" else ()
        yield {
            **asdict(cell.curve),
            "metric": metric,
            "adversary": spec.recipe.adversary,
            "part": "",
            "level": cell.level,
            "planned_sparsity": cell.sparsity,
            "sparsity": exact,
            "score": scores.get(key),
            **{name: scores.get(name) for name in beside},
            "seconds": record.costs.get("seconds") if record else None,
            "kept": ticket.kept if ticket else None,
            "total": ticket.total if ticket else None,
            "state": state,
            "trial": cell.trial,
            "cut": cell.ticket,
            "ticket": ticket.sha256 if ticket else "",
        }


def _parts(cells: pd.DataFrame) -> pd.Series:
    """The column `part`, told from the trials alone."""
    curve = [name for name in CURVE if name != "part"]
    trials = cells.groupby([*curve, "level", "seed"], sort=False).trial.transform("nunique")
    differ = (trials > 1).groupby([cells[name] for name in curve], sort=False).transform("any")
    return cells.study.where(differ, "")


_OVER_SEEDS = {
    "adversary": ("adversary", "first"),
    "planned_sparsity": ("planned_sparsity", "first"),
    "sparsity": ("sparsity", "mean"),
    "mean": ("score", "mean"),
    "sd": ("score", "std"),
    "min": ("score", "min"),
    "max": ("score", "max"),
    "n": ("score", "count"),
    "planned": ("score", "size"),
    "prior": ("prior", "mean"),
}


def under_one_name(cells: pd.DataFrame) -> pd.DataFrame:
    """`cells` with recipes of different names under one, for each model and kind of training where
    every task has one recipe only: tasks differ in what suits them, and belong in one table."""
    renamed = cells.recipe.copy()
    plain = cells.adversary == "none"
    for wanted, name in ((plain, "default"), (~plain, "adversarial")):
        for _, rows in cells[wanted].groupby("model", sort=False):
            several = rows.recipe.nunique() > 1
            if several and rows.groupby("task").recipe.nunique().max() == 1:
                renamed[rows.index] = name
    return cells.assign(recipe=renamed)


def levels(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per curve and level over its seeds, each run once, dense runs left out; the curves
    in the plan's order.

    `sd` is the sample standard deviation (n - 1), missing for one seed; `n` of `planned` seeds
    have a score.
    """
    tickets = cells[cells.source != DENSE].drop_duplicates([*CURVE, "level", "trial"])
    by_level = tickets.groupby([*CURVE, "level"], sort=False).agg(**_OVER_SEEDS)
    by_level = by_level.reset_index()
    curve = by_level.groupby(CURVE, sort=False).ngroup()
    order = pd.DataFrame({"curve": curve, "level": by_level.level}).sort_values(["curve", "level"])
    return by_level.loc[order.index].reset_index(drop=True)


def dense(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per problem (and part): its dense runs of all studies over the seeds, each once."""
    runs = cells[cells.source == DENSE].drop_duplicates([*PROBLEM, "part", "trial"])
    return runs.groupby([*PROBLEM, "part"], sort=False).agg(**_OVER_SEEDS).reset_index()


@dataclass(frozen=True, slots=True)
class Networks:
    """The dense networks that curves are measured against."""

    by_column: Mapping[tuple[str, str, str], Sequence[pd.Series]]
    """(model, task, metric) -> rows of `dense`."""

    def of(self, curve: Mapping[str, Any] | pd.Series) -> pd.Series | None:
        """The dense network of a curve; None if no study asks for one.

        It is that of the same model, task and recipe, whichever study trains it (the curve's own
        where studies' dense networks differ); where the recipe has none, as adversarial ones may,
        that of a standard recipe, `default` first.
        """
        several = self.by_column.get((curve["model"], curve["task"], curve["metric"]), ())
        fitting = [
            row for row in several if row["recipe"] == curve["recipe"] or row["adversary"] == "none"
        ]
        return min(fitting, key=lambda row: _distance(row, curve), default=None)


def _distance(network: pd.Series, curve: Mapping[str, Any] | pd.Series) -> tuple[bool, ...]:
    return (
        network["recipe"] != curve["recipe"],
        network["recipe"] != "default",
        network["part"] != curve["part"],
        network["part"] != "",
    )


def networks(cells: pd.DataFrame) -> Networks:
    by_column: dict[tuple[str, str, str], list[pd.Series]] = {}
    for _, row in dense(cells).iterrows():
        by_column.setdefault((row["model"], row["task"], row["metric"]), []).append(row)
    return Networks(by_column)
