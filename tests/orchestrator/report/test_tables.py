from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from orchestrator.plan.graph import DENSE
from orchestrator.report.data.tables import cells, dense, levels, networks, states, under_one_name
from orchestrator.report.data.verdicts import verdicts
from orchestrator.report.sections.overlap import choose, layers, overlaps
from orchestrator.store.ticket import Ticket
from orchestrator.sweep.config import Win
from tests.support import paper_report as paper
from tests.support.report_rows import TOTAL, World, quickstart
from trainables.spec import Recipe

RULE = Win(ratio=0.99, tolerance="none", seeds=2)


def test_missing_cells_stay_in_the_tables() -> None:
    world = quickstart(missing=40)
    table = cells(world.plan(), world.records)
    assert len(table) == len(world.cells)
    assert (table.state == "missing").sum() == 40
    assert table.score.isna().sum() == 40
    by_level = levels(table)
    assert (by_level.planned - by_level.n).sum() == 40
    assert set(by_level.planned) == {2}
    assert by_level[by_level.n == 1].sd.isna().all()


def test_sparsity_is_the_tickets_own() -> None:
    world = World()
    world.cell("imp", 1, 0.333, 0, 80.0)
    world.cell("imp", 2, 0.666, 0, None)
    done, planned = cells(world.plan(), world.records).to_dict("records")
    assert done["sparsity"] == round(TOTAL * 0.333) / TOTAL != 0.333
    assert done["kept"] == TOTAL - round(TOTAL * 0.333)
    assert planned["sparsity"] == 0.666


def test_descendants_of_a_failure_are_blocked() -> None:
    world = World()
    run = world.cell("imp", 1, 0.1, 0, None)
    cut = world.trials[run].parents[0]
    found = states(world.plan(), world.records, {cut})
    assert found == {cut: "failed", run: "blocked"}
    world.cell("imp", 2, 0.2, 0, 81.0)
    assert list(cells(world.plan(), world.records, {cut}).state) == ["blocked", "done"]


def test_a_dense_run_that_several_curves_share_counts_once() -> None:
    world = World()
    for seed, score in enumerate((80.0, 82.0)):
        world.cell(DENSE, 0, 0.0, seed, score)
        world.cells.append(world.cells[-1])
    (row,) = dense(cells(world.plan(), world.records)).to_dict("records")
    assert (row["mean"], row["n"], row["sd"]) == (81.0, 2, pytest.approx(np.sqrt(2)))


def test_a_task_with_two_metrics_has_a_row_for_each() -> None:
    grid = paper.table_1(paper.world())
    table = cells(grid.plan(), grid.records)
    assert len(table) == len(grid.cells) + sum(c.curve.task == "retrieval" for c in grid.cells)
    rows = dense(table)[lambda t: t.task == "retrieval"].set_index("metric")
    assert rows["mean"].round(2).to_dict() == {"IR": 71.25, "TR": 84.63}
    assert rows.sd.round(2).to_dict() == {"IR": 0.11, "TR": 1.02}
    assert set(table[table.task != "retrieval"].metric) == {""}


def test_studies_add_to_one_curve() -> None:
    """One has all levels for one seed, another more seeds of one level, as VLT's Table 1 has."""
    world = World()
    for level in range(1, 4):
        world.cell("imp", level, level / 10, 0, 80.0, study="curves")
    for seed in range(3):
        world.cell("imp", 2, 0.2, seed, 80.0 + seed, study="repeats")
    by_level = levels(cells(world.plan(), world.records))
    assert list(by_level.n) == [1, 3, 1]
    assert by_level["mean"][1] == 81.0
    assert set(by_level.part) == {""}


def test_studies_that_differ_keep_their_own_curves() -> None:
    """The same level and seed, but other trials: another pool, say."""
    world = World()
    for study in ("global", "layer"):
        world.cell("imp", 2, 0.2, 0, 80.0 if study == "layer" else 70.0, study=study, variant=study)
        world.cell("random", 2, 0.2, 0, 60.0, study=study)
    by_level = levels(cells(world.plan(), world.records)).set_index(["source", "part"])
    assert by_level["mean"].to_dict() == {
        ("imp", "global"): 70.0, ("imp", "layer"): 80.0, ("random", ""): 60.0,
    }  # fmt: skip


def test_the_dense_network_of_another_study_or_recipe_serves() -> None:
    world = World(recipes={"hostile": Recipe(adversary="text"), "short": Recipe(steps=10)})
    for seed in range(2):
        world.cell(DENSE, 0, 0.0, seed, 80.0 + seed, study="other")
    world.cell("imp", 1, 0.1, 0, 79.0)
    world.cell("imp", 1, 0.1, 0, 79.0, recipe="hostile")
    world.cell("imp", 1, 0.1, 0, 79.0, recipe="short")
    world.cell(DENSE, 0, 0.0, 0, 50.0, recipe="short")
    table = cells(world.plan(), world.records)
    found = verdicts(table, RULE).set_index("recipe").dense_mean
    assert found.to_dict() == {"default": 80.5, "hostile": 80.5, "short": 50.0}
    assert networks(table).of({"model": "m", "task": "t", "metric": "", "recipe": ""}) is None


def test_an_empty_plan_has_empty_tables() -> None:
    table = cells(World().plan(), {})
    assert len(verdicts(table, RULE)) == len(levels(table)) == 0


def test_tickets_of_one_sparsity_are_chosen_each_once() -> None:
    world = quickstart()
    for seed in range(2):  # wears a ticket that is shown already
        world.cell("reinit", 9, 0.9, seed, 70.0, origin="easy_vqa/default/imp")
    table = cells(world.plan(), world.records)
    (chosen,) = choose(table, verdicts(table, RULE))
    assert (chosen.model, chosen.what, chosen.sparsity) == ("uniter-tiny", "chains", 0.9)
    assert chosen.tickets.ticket.is_unique
    assert chosen.tickets.label.is_unique
    assert list(chosen.tickets.source) == ["imp"] * 4 + ["random"] * 2 + ["random_layerwise"] * 4


def test_tickets_of_tasks_stand_side_by_side() -> None:
    grid = paper.table_2(paper.table_1(paper.world()))
    table = cells(grid.plan(), grid.records)
    found = choose(table, verdicts(table, RULE))
    tasks = [choice for choice in found if choice.what == "tasks"]
    assert {choice.sparsity: list(choice.tickets.label) for choice in tasks} == {
        0.6: ["nlvr2", "snli_ve", "retrieval", "pretraining"],
        0.7: ["vqa", "gqa", "refcoco", "pretraining"],
    }  # the two levels at which Table 1 has most


def _ticket(*masks: list[int]) -> Ticket:
    named = {f"layer.{i}.w.weight": np.array(mask, dtype=bool) for i, mask in enumerate(masks)}
    return Ticket.from_masks(named, scheme="x", model_sha256="0" * 64, pool="encoder")


def test_overlap_and_its_chance_by_hand() -> None:
    a = _ticket([1, 1, 0, 0], [0, 0, 0, 0])
    b = _ticket([1, 0, 1, 0], [0, 0, 0, 0])
    (row,) = overlaps({"a": a, "b": b}).to_dict("records")
    assert row["jaccard"] == pytest.approx(1 / 3)
    assert row["chance"] == pytest.approx(0.25 / (2 - 0.25))  # d / (2 - d) at density 1/4
    assert row["chance_by_layer"] == pytest.approx(1 / 3)  # of 2 + 2 in four places: 1 of 3


def test_layers_have_kind_and_depth() -> None:
    table = layers({"a": _ticket([1, 1, 0, 0], [1, 1, 1, 0])})
    assert list(table.kind) == ["w", "w"]
    assert list(table.depth) == [0, 1]
    assert list(table.sparsity) == [0.5, 0.25]


def test_a_report_needs_no_ray_mlflow_or_torch() -> None:
    code = (
        "import sys, orchestrator.report\n"
        "print([m for m in ('ray', 'mlflow', 'torch', 'deepspeed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recipes_that_differ_by_task_belong_in_one_table() -> None:
    rows = pd.DataFrame(
        {
            "model": ["m", "m", "m", "n", "n"],
            "task": ["a", "b", "a", "a", "a"],
            "recipe": ["big", "small", "hard", "big", "small"],
            "adversary": ["none", "none", "text", "none", "none"],
        }
    )
    # Of `n` the one task has two recipes: their names tell its rows apart.
    assert list(under_one_name(rows).recipe) == ["default", "default", "hard", "big", "small"]
