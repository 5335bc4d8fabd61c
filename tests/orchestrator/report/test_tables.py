from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from orchestrator.plan.graph import DENSE
from orchestrator.report.data.tables import (
    cell_scores,
    dense_networks,
    dense_scores,
    level_scores,
    trial_states,
    unify_recipe_names,
)
from orchestrator.report.data.verdicts import curve_verdicts
from orchestrator.report.sections.overlap import choose_tickets, layer_sparsity, overlaps
from orchestrator.store.ticket import Ticket
from orchestrator.sweep.config import Win
from tests.support import paper_report as paper
from tests.support.synthetic_sweep import TOTAL, SyntheticSweep, quickstart_sweep
from trainables.spec import Recipe

RULE = Win(ratio=0.99, tolerance="none", seeds=2)


def test_missing_cells_stay_in_the_tables() -> None:
    sweep = quickstart_sweep(missing=40)
    table = cell_scores(sweep.plan(), sweep.records)
    assert len(table) == len(sweep.cells)
    assert (table.state == "missing").sum() == 40
    assert table.score.isna().sum() == 40
    by_level = level_scores(table)
    assert (by_level.planned - by_level.n).sum() == 40
    assert set(by_level.planned) == {2}
    assert by_level[by_level.n == 1].sd.isna().all()


def test_sparsity_is_that_of_the_ticket() -> None:
    sweep = SyntheticSweep()
    sweep.add_cell("imp", 1, 0.333, 0, 80.0)
    sweep.add_cell("imp", 2, 0.666, 0, None)
    done, planned = cell_scores(sweep.plan(), sweep.records).to_dict("records")
    assert done["sparsity"] == round(TOTAL * 0.333) / TOTAL != 0.333
    assert done["kept"] == TOTAL - round(TOTAL * 0.333)
    assert planned["sparsity"] == 0.666


def test_trials_that_depend_on_a_failed_one_are_blocked() -> None:
    sweep = SyntheticSweep()
    run = sweep.add_cell("imp", 1, 0.1, 0, None)
    prune_trial = sweep.trials[run].parents[0]
    states = trial_states(sweep.plan(), sweep.records, {prune_trial})
    assert states == {prune_trial: "failed", run: "blocked"}
    sweep.add_cell("imp", 2, 0.2, 0, 81.0)
    assert list(cell_scores(sweep.plan(), sweep.records, {prune_trial}).state) == [
        "blocked",
        "done",
    ]


def test_skipped_trials_are_not_missing_but_results_come_first() -> None:
    sweep = SyntheticSweep()
    run = sweep.add_cell("imp", 1, 0.1, 0, None)
    done = sweep.add_cell("imp", 2, 0.2, 0, 81.0)
    prune_trial = sweep.trials[run].parents[0]
    states = trial_states(sweep.plan(), sweep.records, (), {run, prune_trial, done})
    assert (states[run], states[prune_trial], states[done]) == ("skipped", "skipped", "done")
    cells = cell_scores(sweep.plan(), sweep.records, (), {run})
    assert list(cells.state) == ["skipped", "done"]
    assert list(level_scores(cells).planned) == [0, 1]


def test_a_trial_that_failed_and_is_not_wanted_any_more_is_skipped() -> None:
    sweep = SyntheticSweep()
    run = sweep.add_cell("imp", 1, 0.1, 0, None)
    prune_trial = sweep.trials[run].parents[0]
    states = trial_states(sweep.plan(), {}, {prune_trial}, {run, prune_trial})
    assert set(states.values()) == {"skipped"}


def test_a_dense_run_shared_by_several_curves_counts_once() -> None:
    sweep = SyntheticSweep()
    for seed, score in enumerate((80.0, 82.0)):
        sweep.add_cell(DENSE, 0, 0.0, seed, score)
        sweep.cells.append(sweep.cells[-1])
    (row,) = dense_scores(cell_scores(sweep.plan(), sweep.records)).to_dict("records")
    assert (row["mean"], row["n"], row["sd"]) == (81.0, 2, pytest.approx(np.sqrt(2)))


def test_a_task_with_two_metrics_has_a_row_for_each() -> None:
    grid = paper.table_1(paper.empty_grid())
    table = cell_scores(grid.plan(), grid.records)
    assert len(table) == len(grid.cells) + sum(c.curve.task == "retrieval" for c in grid.cells)
    rows = dense_scores(table)[lambda t: t.task == "retrieval"].set_index("metric")
    assert rows["mean"].round(2).to_dict() == {"IR": 71.25, "TR": 84.63}
    assert rows.sd.round(2).to_dict() == {"IR": 0.11, "TR": 1.02}
    assert set(table[table.task != "retrieval"].metric) == {""}


def test_studies_extend_one_curve() -> None:
    """One study has all levels for one seed, another more seeds of one level, as in Table 1."""
    sweep = SyntheticSweep()
    for level in range(1, 4):
        sweep.add_cell("imp", level, level / 10, 0, 80.0, study="curves")
    for seed in range(3):
        sweep.add_cell("imp", 2, 0.2, seed, 80.0 + seed, study="repeats")
    by_level = level_scores(cell_scores(sweep.plan(), sweep.records))
    assert list(by_level.n) == [1, 3, 1]
    assert by_level["mean"][1] == 81.0
    assert set(by_level.variant) == {""}


def test_studies_with_different_trials_have_separate_curves() -> None:
    """Level and seed are the same but the trials differ, for example in their pool."""
    sweep = SyntheticSweep()
    for study in ("global", "layer"):
        sweep.add_cell(
            "imp", 2, 0.2, 0, 80.0 if study == "layer" else 70.0, study=study, pool=study
        )
        sweep.add_cell("random", 2, 0.2, 0, 60.0, study=study)
    by_level = level_scores(cell_scores(sweep.plan(), sweep.records)).set_index(
        ["source", "variant"]
    )
    assert by_level["mean"].to_dict() == {
        ("imp", "global"): 70.0, ("imp", "layer"): 80.0, ("random", ""): 60.0,
    }  # fmt: skip


def test_the_dense_network_may_come_from_another_study_or_recipe() -> None:
    sweep = SyntheticSweep(
        recipes={"adversarial": Recipe(adversary="text"), "short": Recipe(steps=10)}
    )
    for seed in range(2):
        sweep.add_cell(DENSE, 0, 0.0, seed, 80.0 + seed, study="other")
    sweep.add_cell("imp", 1, 0.1, 0, 79.0)
    sweep.add_cell("imp", 1, 0.1, 0, 79.0, recipe="adversarial")
    sweep.add_cell("imp", 1, 0.1, 0, 79.0, recipe="short")
    sweep.add_cell(DENSE, 0, 0.0, 0, 50.0, recipe="short")
    table = cell_scores(sweep.plan(), sweep.records)
    means = curve_verdicts(table, RULE).set_index("recipe").dense_mean
    assert means.to_dict() == {"default": 80.5, "adversarial": 80.5, "short": 50.0}
    assert (
        dense_networks(table).find({"model": "m", "task": "t", "metric": "", "recipe": ""}) is None
    )


def test_an_empty_plan_has_empty_tables() -> None:
    table = cell_scores(SyntheticSweep().plan(), {})
    assert len(curve_verdicts(table, RULE)) == len(level_scores(table)) == 0


def test_each_ticket_of_a_sparsity_is_chosen_once() -> None:
    sweep = quickstart_sweep()
    for seed in range(2):  # uses a ticket that is chosen already
        sweep.add_cell("reinit", 9, 0.9, seed, 70.0, origin="easy_vqa/default/imp")
    table = cell_scores(sweep.plan(), sweep.records)
    (chosen,) = choose_tickets(table, curve_verdicts(table, RULE))
    assert (chosen.model, chosen.kind, chosen.sparsity) == ("uniter-tiny", "chains", 0.9)
    assert chosen.tickets.ticket.is_unique
    assert chosen.tickets.label.is_unique
    assert list(chosen.tickets.source) == ["imp"] * 4 + ["random"] * 2 + ["random_layerwise"] * 4


def test_tickets_of_different_tasks_are_compared() -> None:
    grid = paper.table_2(paper.table_1(paper.empty_grid()))
    table = cell_scores(grid.plan(), grid.records)
    choices = choose_tickets(table, curve_verdicts(table, RULE))
    tasks = [choice for choice in choices if choice.kind == "tasks"]
    assert {choice.sparsity: list(choice.tickets.label) for choice in tasks} == {
        0.6: ["nlvr2", "snli_ve", "retrieval", "pretraining"],
        0.7: ["vqa", "gqa", "refcoco", "pretraining"],
    }  # the two levels at which Table 1 has the most tickets


def _ticket(*masks: list[int]) -> Ticket:
    named = {f"layer.{i}.w.weight": np.array(mask, dtype=bool) for i, mask in enumerate(masks)}
    return Ticket.from_arrays(named, architecture="x", model_sha256="0" * 64, pool="encoder")


def test_overlap_and_chance_match_manual_results() -> None:
    a = _ticket([1, 1, 0, 0], [0, 0, 0, 0])
    b = _ticket([1, 0, 1, 0], [0, 0, 0, 0])
    (row,) = overlaps({"a": a, "b": b}).to_dict("records")
    assert row["jaccard"] == pytest.approx(1 / 3)
    assert row["chance"] == pytest.approx(0.25 / (2 - 0.25))  # d / (2 - d) at density 1/4
    assert row["chance_by_layer"] == pytest.approx(1 / 3)  # two of four weights each: 1 of 3


def test_layer_sparsity_has_kind_and_depth() -> None:
    table = layer_sparsity({"a": _ticket([1, 1, 0, 0], [1, 1, 1, 0])})
    assert list(table.kind) == ["w", "w"]
    assert list(table.depth) == [0, 1]
    assert list(table.sparsity) == [0.5, 0.25]


def test_a_report_needs_no_ray_mlflow_or_torch() -> None:
    code = (
        "import sys, orchestrator.report.write\n"
        "print([m for m in ('ray', 'mlflow', 'torch', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_that_differ_by_task_share_one_table() -> None:
    rows = pd.DataFrame(
        {
            "model": ["m", "m", "m", "n", "n"],
            "task": ["a", "b", "a", "a", "a"],
            "recipe": ["big", "small", "hard", "big", "small"],
            "adversary": ["none", "none", "text", "none", "none"],
        }
    )
    # The only task of `n` has two recipes, so their names must stay.
    assert list(unify_recipe_names(rows).recipe) == ["default", "default", "hard", "big", "small"]
