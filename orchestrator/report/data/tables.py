"""Tidy tables from a plan and its records: one row per cell and score, or per level over seeds.

A task may report several scores (`TaskEntry.columns`: image and text retrieval). Each is a
*column*, the pair (task, metric), and a cell has a row for each. A cell without a record stays in
every table, as `missing`, `failed`, `blocked` or `skipped`: a partial sweep must look partial.
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

CellState: TypeAlias = Literal["done", "failed", "blocked", "skipped", "missing"]
"""`blocked`: a trial that it needs failed. `skipped`: the strategy does not want it so far."""

SCORE_KEY = ["task", "metric"]
"""Columns that identify a column of the paper's tables. `metric` is empty if a task has one."""
PROBLEM_KEY = ["model", *SCORE_KEY, "recipe"]
"""Columns that identify the dense network a ticket is compared with."""
CURVE_KEY = [*PROBLEM_KEY, "schedule", "rewind", "source", "variant"]
"""Columns that identify the curve a cell belongs to, regardless of its seed.

Studies that request the same curve at other levels or seeds extend one curve, so `study` is not
among them. `variant` is usually empty. If studies run different trials for the same curve, level
and seed (another pool, another pruner), it is the study's name, and each study has its own curve.
"""


@dataclass(frozen=True, slots=True)
class Labels:
    """Models and tasks that the labels of a sweep file refer to."""

    models: Mapping[str, ModelSpec]
    tasks: Mapping[str, str]
    """Label -> name in `TASKS`."""

    def is_pretraining(self, task: str) -> bool:
        return task in self.tasks and TASKS[self.tasks[task]].pretraining


def sweep_labels(plan: Plan) -> Labels:
    """Return the labels used by the plan's training runs, including rounds of pre-training."""
    specs = [(t.model, t.task, t.spec) for t in plan.training_runs()]
    specs += [(c.curve.model, c.curve.task, plan.trials[c.trial].spec) for c in plan.cells]
    models: dict[str, ModelSpec] = {}
    tasks: dict[str, str] = {}
    for model, task, spec in specs:
        assert isinstance(spec, TrainSpec)
        models[model] = spec.model
        tasks[task] = spec.task.name
    return Labels(models, tasks)


def trial_states(
    plan: Plan,
    records: Mapping[str, Record],
    failed: Collection[str],
    skipped: Collection[str] = (),
) -> dict[str, CellState]:
    """Return the state of every trial. `skipped` are trials that the sweep's strategy does not
    want, failed ones or not: no run tries them again."""
    states: dict[str, CellState] = {}
    for trial in plan:
        needs = (*trial.parents, *([trial.produced_by] if trial.produced_by else []))
        if trial.key in records:
            states[trial.key] = "done"
        elif trial.key in skipped:
            states[trial.key] = "skipped"
        elif trial.key in failed:
            states[trial.key] = "failed"
        elif any(states.get(need) in ("failed", "blocked") for need in needs):
            states[trial.key] = "blocked"
        else:
            states[trial.key] = "missing"
    return states


def cell_scores(
    plan: Plan,
    records: Mapping[str, Record],
    failed: Collection[str] = (),
    skipped: Collection[str] = (),
) -> pd.DataFrame:
    """Return one row per cell of the plan and metric of its task, in the plan's order.

    Scores are in percent, sparsities in 0..1. `sparsity` is exact (1 - kept / total) if the ticket
    exists, else as planned. `prune_trial` is the key of the trial that produces the ticket.
    """
    state = trial_states(plan, records, failed, skipped)
    rows = [
        row
        for cell in plan.cells
        for row in _cell_rows(cell, plan.trials[cell.trial].spec, records, state[cell.trial])
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    return table.assign(variant=_variants(table))


_COLUMNS = {
    **dict.fromkeys(("study", *PROBLEM_KEY, "adversary", "schedule"), "str"),
    "rewind": "int64",
    **dict.fromkeys(("source", "variant"), "str"),
    "seed": "int64",
    "level": "int64",
    "planned_sparsity": "float64",
    "sparsity": "float64",
    **dict.fromkeys(("score", "best", "last", "prior", "seconds"), "float64"),
    **dict.fromkeys(("kept", "total"), "Int64"),
    **dict.fromkeys(("state", "trial", "prune_trial", "ticket"), "str"),
}


def _cell_rows(
    cell: Cell, spec: object, records: Mapping[str, Record], state: CellState
) -> Iterator[dict[str, object]]:
    assert isinstance(spec, TrainSpec)
    record, pruned = records.get(cell.trial), records.get(cell.ticket)
    ticket = (record and record.ticket) or (pruned and pruned.ticket)
    scores = record.scores if record else {}
    exact = 1 - ticket.kept / ticket.total if ticket and ticket.total else cell.sparsity
    for key, metric in TASKS[spec.task.name].columns.items():
        extra_scores = ("best", "last", "prior") if key == "score" else ()
        yield {
            **asdict(cell.curve),
            "metric": metric,
            "adversary": spec.recipe.adversary,
            "variant": "",
            "level": cell.level,
            "planned_sparsity": cell.sparsity,
            "sparsity": exact,
            "score": scores.get(key),
            **{name: scores.get(name) for name in extra_scores},
            "seconds": record.costs.get("seconds") if record else None,
            "kept": ticket.kept if ticket else None,
            "total": ticket.total if ticket else None,
            "state": state,
            "trial": cell.trial,
            "prune_trial": cell.ticket,
            "ticket": ticket.sha256 if ticket else "",
        }


def _variants(cells: pd.DataFrame) -> pd.Series:
    """Return the column `variant`, derived from the trials alone."""
    curve = [name for name in CURVE_KEY if name != "variant"]
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
    "planned": ("wanted", "sum"),
    "prior": ("prior", "mean"),
}


def unify_recipe_names(cells: pd.DataFrame) -> pd.DataFrame:
    """Return `cells` with one recipe name per model and kind of training (standard, adversarial).

    This applies only where every task has a single recipe: tasks may need different recipes and
    still belong in one table.
    """
    renamed = cells.recipe.copy()
    standard = cells.adversary == "none"
    for selected, name in ((standard, "default"), (~standard, "adversarial")):
        for _, rows in cells[selected].groupby("model", sort=False):
            several = rows.recipe.nunique() > 1
            if several and rows.groupby("task").recipe.nunique().max() == 1:
                renamed[rows.index] = name
    return cells.assign(recipe=renamed)


def level_scores(cells: pd.DataFrame) -> pd.DataFrame:
    """Aggregate the cells to one row per curve and level over its seeds, without dense runs.

    Each run counts once; curves are in the plan's order. `sd` is the sample standard deviation
    (n - 1), missing for one seed; `n` of `planned` seeds have a score. A skipped seed counts for
    neither.
    """
    cells = cells.assign(wanted=cells.state != "skipped")
    tickets = cells[cells.source != DENSE].drop_duplicates([*CURVE_KEY, "level", "trial"])
    by_level = tickets.groupby([*CURVE_KEY, "level"], sort=False).agg(**_OVER_SEEDS)
    by_level = by_level.reset_index()
    curve = by_level.groupby(CURVE_KEY, sort=False).ngroup()
    order = pd.DataFrame({"curve": curve, "level": by_level.level}).sort_values(["curve", "level"])
    return by_level.loc[order.index].reset_index(drop=True)


def dense_scores(cells: pd.DataFrame) -> pd.DataFrame:
    """Aggregate the dense runs of all studies, each once, to one row per problem and variant."""
    cells = cells.assign(wanted=cells.state != "skipped")
    runs = cells[cells.source == DENSE].drop_duplicates([*PROBLEM_KEY, "variant", "trial"])
    return runs.groupby([*PROBLEM_KEY, "variant"], sort=False).agg(**_OVER_SEEDS).reset_index()


@dataclass(frozen=True, slots=True)
class DenseNetworks:
    """The dense networks that curves are compared with."""

    by_column: Mapping[tuple[str, str, str], Sequence[pd.Series]]
    """(model, task, metric) -> rows of `dense_scores`."""

    def find(self, curve: Mapping[str, Any] | pd.Series) -> pd.Series | None:
        """Return the dense network of a curve; None if no study requests one.

        It has the same model, task and recipe and may come from any study (the curve's own study
        if their dense networks differ). If the recipe has no dense network, as adversarial ones
        may, it is that of a standard recipe, preferably `default`.
        """
        candidates = self.by_column.get((curve["model"], curve["task"], curve["metric"]), ())
        matching = [
            row
            for row in candidates
            if row["recipe"] == curve["recipe"] or row["adversary"] == "none"
        ]
        return min(matching, key=lambda row: _distance(row, curve), default=None)


def _distance(network: pd.Series, curve: Mapping[str, Any] | pd.Series) -> tuple[bool, ...]:
    return (
        network["recipe"] != curve["recipe"],
        network["recipe"] != "default",
        network["variant"] != curve["variant"],
        network["variant"] != "",
    )


def dense_networks(cells: pd.DataFrame) -> DenseNetworks:
    """Return the dense networks of all cells, by column."""
    by_column: dict[tuple[str, str, str], list[pd.Series]] = {}
    for _, row in dense_scores(cells).iterrows():
        by_column.setdefault((row["model"], row["task"], row["metric"]), []).append(row)
    return DenseNetworks(by_column)
