"""The paper's tables from the paper's own scores, as a sweep of just these would have them."""

from __future__ import annotations

import pandas as pd
import pytest

from orchestrator.plan.graph import DENSE
from orchestrator.report.data.tables import Labels, Networks, cells, labels, levels, networks
from orchestrator.report.data.verdicts import verdicts
from orchestrator.report.page.page import Entry, Table, Value, markdown
from orchestrator.report.sections import (
    adversarial,
    controls,
    published,
    rewinding,
    transfer,
    universal,
)
from orchestrator.sweep.config import Win
from tests.support import paper_report as paper
from tests.support.report_rows import World
from trainables.spec import ModelSpec

ONE_SD = Win(ratio=0.99, tolerance="one_sd", seeds=3)
STRICT = Win(ratio=0.99, tolerance="none", seeds=3)


def read(grid: World) -> tuple[pd.DataFrame, pd.DataFrame, Networks, Labels]:
    table = cells(grid.plan(), grid.records)
    return table, levels(table), networks(table), labels(grid.plan())


def text(entry: Entry) -> str:
    return entry if isinstance(entry, str) else entry.text


def note(entry: Entry) -> str:
    return "" if isinstance(entry, str) else entry.note


def shown(table: Table) -> dict[str, list[Entry]]:
    return {text(row[0]): list(row[1:]) for row in table.rows}


# Table 1


def table_1(rule: Win, grid: World | None = None) -> Table:
    _, by_level, dense, told = read(grid or paper.table_1(paper.world()))
    tidy = published.beside(controls.controls(by_level, dense, rule), told)
    (table,) = controls.tables(tidy, rule, told)
    return table


def test_table_1_is_the_papers() -> None:
    rows = shown(table_1(ONE_SD))
    assert list(rows) == [
        "sparsity", "dense", "99 % of dense", "IMP", "random", "IMP, bert-base init",
        "IMP, shuffled within", "verdict on IMP",
    ]  # fmt: skip
    assert list(map(text, rows["sparsity"])) == [f"{10 * n} %" for n in paper.AT.values()]
    assert text(rows["IMP"][0]) == "69.98 ± 0.05 (3)"
    assert set(map(text, rows["verdict on IMP"])) == {"relaxed winning"}
    for name, entries in rows.items():
        if name != "verdict on IMP":  # every printed number stands beneath the same one of ours
            assert [note(e).removeprefix("VLT ") for e in entries] == [
                text(e).removesuffix(" (3)").removesuffix(" (1)") for e in entries
            ]


def test_under_the_strict_rule_four_tickets_of_table_1_miss() -> None:
    rows = shown(table_1(STRICT))
    missed = [text(e) == "misses" for e in rows["verdict on IMP"]]
    assert dict(zip(paper.COLUMNS, missed, strict=True)) == {
        name: name in ("vcr", "IR", "TR") for name in paper.COLUMNS
    }  # LXMERT's NLVR2 is the fourth
    bold = [isinstance(e, Value) and e.strong for e in rows["IMP"]]
    assert bold == [not miss for miss in missed]


def test_the_level_is_the_highest_that_meets_the_rule() -> None:
    world = World()
    for seed in range(3):
        world.cell(DENSE, 0, 0.0, seed, 80.0 + seed)
        for level, score in enumerate((81.0, 80.5, 70.0), start=1):
            world.cell("imp", level, level / 10, seed, score + seed)
            world.cell("random", level, level / 10, seed, 60.0 + seed)
    rows = shown(table_1(STRICT, world))
    assert text(rows["sparsity"][0]) == "20 %"
    assert text(rows["random"][0]) == "61.00 ± 1.00 (3)"
    assert not note(rows["IMP"][0])  # easy_vqa is not in the paper


def test_a_study_that_fixes_levels_is_read_there() -> None:
    """The other start weights exist at 30 % only, though 10 % would meet the rule."""
    world = World()
    for seed in range(3):
        world.cell(DENSE, 0, 0.0, seed, 80.0)
        for level, score in enumerate((81.0, 79.0, 70.0), start=1):
            world.cell("imp", level, level / 10, seed, score)
    world.cell("reinit", 3, 0.3, 0, 60.0, origin="easy_vqa/default/imp")
    rows = shown(table_1(STRICT, world))
    assert text(rows["sparsity"][0]) == "30 %"
    assert text(rows["verdict on IMP"][0]) == "misses"
    assert text(rows["IMP, new init"][0]) == "60.00 (1)"


def test_what_is_missing_in_table_1_is_shown_as_missing() -> None:
    world = World()
    for task in ("a", "b"):
        for seed in range(3):
            world.cell(DENSE, 0, 0.0, seed, 80.0 if task == "a" else None, task=task)
            world.cell("imp", 1, 0.1, seed, 80.0 if task == "a" else None, task=task)
    world.cell("random", 1, 0.1, 0, 60.0, task="a")
    rows = shown(table_1(ONE_SD, world))
    assert list(map(text, rows["random"])) == ["60.00 (1)", "–"]
    assert list(map(text, rows["dense"])) == ["80.00 ± 0.00 (3)", "–"]
    assert list(map(text, rows["verdict on IMP"])) == ["winning", "undecided"]


# Table 2


def table_2(grid: World) -> tuple[Table, pd.DataFrame]:
    _, by_level, dense, told = read(grid)
    tidy = published.beside(universal.universal(by_level, dense, ONE_SD, told), told)
    averages = published.drops_beside(universal.average_drops(tidy, told), told)
    (table,) = universal.tables(tidy, averages)
    return table, averages


def test_table_2s_eight_averages_follow_from_its_scores() -> None:
    """The golden test: VLT's printed scores give its printed averages, to the last digit."""
    table, averages = table_2(paper.table_2(paper.table_1(paper.world())))
    found = [f"{row[name]:.2f}" for _, row in averages.iterrows() for name in DROPS]
    assert found == ["1.00", "0.52", "1.88", "1.10", "3.90", "2.66", "6.80", "4.78"]
    rows = shown(table)
    assert list(rows) == ["0 % (dense)", "50 %", "60 %", "70 %", "80 %"]
    assert [text(entry) for entry in rows["70 %"][-2:]] == ["3.90 %", "2.66 %"]
    assert [note(entry) for entry in rows["70 %"][-2:]] == ["VLT 3.90 %", "VLT 2.66 %"]
    assert list(map(note, rows["60 %"][:2])) == ["VLT 70.41", "VLT 59.44"]


DROPS = ("drop", "drop_without_vcr")


def test_an_average_waits_for_every_column() -> None:
    grid = paper.table_2(paper.table_1(paper.world()))
    lost = next(c for c in grid.cells if c.curve.source.startswith("transfer") and c.level == 6)
    del grid.records[lost.trial]
    table, averages = table_2(grid)
    assert list(averages["drop"].isna()) == [False, True, False, False]
    row = shown(table)["60 %"]
    assert [text(row[0]), text(row[1]), text(row[-2])] == ["–", "59.44", "–"]


# The transfer matrix


def test_the_transfer_matrix_by_hand() -> None:
    world = World(tasks={"a": "vqa", "b": "retrieval", "corpus": "pretraining"})
    world.round("uniter-tiny", "corpus")
    two = {"ir1": 40.0, "tr1": 50.0}
    world.cell(DENSE, 0, 0.0, 0, 80.0, task="a")
    world.cell(DENSE, 0, 0.0, 0, 45.0, task="b", scores=two)
    world.cell("imp", 5, 0.5, 0, 76.0, task="a")
    world.cell("transfer:b", 5, 0.5, 0, 72.0, task="a", origin="b/default/imp")
    world.cell("transfer:corpus", 5, 0.5, 0, 78.0, task="a", origin="corpus/default/imp")
    world.cell("transfer:a", 5, 0.5, 0, 36.0, task="b", origin="a/default/imp",
               scores={"ir1": 36.0, "tr1": 45.0})  # fmt: skip
    world.cell("imp", 5, 0.5, 0, None, task="b")
    _, by_level, dense, told = read(world)
    matrix = transfer.transfer(by_level, dense, ONE_SD, told)
    assert transfer.tickets(matrix, told) == ["a", "b", "corpus"]
    found = matrix.set_index(["ticket", "task", "metric"])
    assert found.of_dense["b", "a", ""] == pytest.approx(90.0)
    assert found.of_own["b", "a", ""] == pytest.approx(100 * 72 / 76)
    assert found.of_dense["a", "b", "TR"] == pytest.approx(90.0)
    assert pd.isna(found.of_own["a", "b", "IR"])
    table = transfer.table(matrix, 5, told)
    assert list(table.header) == ["ticket of", "a", "b IR", "b TR"]
    rows = shown(table)
    assert [text(e) for e in rows["b"]] == ["72.00", "–", "–"]
    assert [text(e) for e in rows["corpus"]] == ["78.00", "–", "–"]
    assert note(rows["a"][0]) == "own"


def test_a_sweep_without_lent_tickets_has_no_matrix() -> None:
    _, by_level, dense, told = read(paper.table_2(paper.table_1(paper.world())))
    assert transfer.transfer(by_level, dense, ONE_SD, told).empty  # pre-training lends: Table 2


# Adversarial training


def test_table_5_is_the_papers() -> None:
    grid = paper.table_5(paper.table_2(paper.table_1(paper.world())))
    table, by_level, _, told = read(grid)
    tidy = published.beside(adversarial.adversarial(table, by_level), told)
    assert tidy.same_ticket.all()
    (found,) = adversarial.tables(tidy)
    assert [list(map(text, row[:2])) for row in found.rows] == [
        [f"{sparsity} %", recipe]
        for sparsity in (60, 70)
        for recipe in ("default (standard)", "adversarial (adversary: text)")
    ]
    assert text(found.rows[1][2]) == "70.80 (+0.39)"
    for row in found.rows:
        printed = [note(entry).removeprefix("VLT ") for entry in row[2:]]
        assert printed == [text(entry).split(" ")[0] for entry in row[2:]]


def test_tickets_of_an_adversarial_chain_are_its_own() -> None:
    grid = paper.world()
    paper.add(grid, "vqa", "imp", 7, 0, {"vqa": 69.0})
    paper.add(grid, "vqa", "imp", 7, 0, {"vqa": 70.0}, recipe="adversarial")
    paper.add(grid, "gqa", "imp", 7, 0, {"gqa": 60.0}, recipe="adversarial")
    table, by_level, _, _ = read(grid)
    tidy = adversarial.adversarial(table, by_level)
    assert not tidy.same_ticket.any()
    gains = tidy[tidy.adversary != "none"].set_index("task").gain
    assert gains["vqa"] == pytest.approx(1.0)
    assert pd.isna(gains["gqa"])  # no standard score to compare with


# Rewinding


def test_rewind_points_stand_below_one_another() -> None:
    world = World()
    for rewind, level in ((0, 1), (0, 2), (60, 1), (600, 2)):
        world.cell("imp", level, level / 10, 0, 80.0 + rewind / 100, rewind=rewind)
    (table,) = rewinding.tables(levels(cells(world.plan(), world.records)))
    assert list(table.header) == ["from", "10 %", "20 %"]
    assert [list(row) for row in table.rows] == [
        ["θ₀", "80.00", "80.00"], ["θ₆₀", "80.60", "–"], ["θ₆₀₀", "–", "86.00"],
    ]  # fmt: skip


# The printed numbers


def test_what_the_paper_printed_agrees_with_itself() -> None:
    found = published.numbers()
    key = ["architecture", "trainable", "metric", "sparsity"]
    dense = found[(found.kind == "dense") & (found.table != "2")].set_index(key).published_mean
    lines = found[found.kind == "line"].set_index(key).published_mean
    pd.testing.assert_series_equal(lines, (0.99 * dense[lines.index]), atol=0.0051, rtol=0)
    again = found[(found.table == "2") & (found.kind == "dense")].set_index(key).published_mean
    assert (again == dense[again.index]).all()
    standard = found[(found.table == "5") & ~found.adversarial].set_index(key).published_mean
    universal_ = found[(found.table == "2") & (found.kind != "dense")].set_index(key)
    assert (standard == universal_.published_mean[standard.index]).all()
    assert len(standard) == 12


@pytest.mark.parametrize(
    ("where", "printed"),
    [
        (("1", "uniter", "retrieval", "TR", "shuffle_within"), (48.00, None, 60)),
        (("1", "uniter", "vcr", "", "imp"), (53.15, 1.02, 50)),
        (("3", "lxmert", "gqa", "", "random"), (47.88, 0.55, 70)),
        (("4", "vilt", "nlvr2", "", "imp"), (75.22, 0.41, 30)),
    ],
)
def test_single_numbers(where: tuple[str, ...], printed: tuple[float | None, ...]) -> None:
    names = ["table", "architecture", "trainable", "metric", "kind"]
    found = published.numbers().set_index(names).sort_index().loc[where]
    values = found[["published_mean", "published_sd", "sparsity"]].to_numpy()
    assert [None if pd.isna(value) else value for value in values.ravel()] == list(printed)


def test_the_papers_numbers_stand_only_beside_the_same_cell() -> None:
    tidy = pd.DataFrame(
        {
            "model": ["base", "base", "base", "tiny"], "task": ["q"] * 4, "metric": [""] * 4,
            "source": ["imp", "imp", "imp", "imp"], "sparsity": [0.7, 0.6, 0.7, 0.7],
            "adversary": ["none", "none", "text", "none"],
        }
    )  # fmt: skip
    sizes = {size: ModelSpec(architecture="uniter", size=size) for size in ("base", "tiny")}
    found = published.beside(tidy, Labels(sizes, {"q": "vqa"}))
    assert found.published_mean.fillna(0).to_list() == [69.98, 0, 0, 0]


def test_markdown_keeps_both_lines_of_a_cell() -> None:
    rows = [["IMP", Value(text="69.98", note="VLT 69.98", strong=True)], ["a|b", "–"]]
    written = markdown([Table(header=["", "vqa"], rows=rows, caption="uniter")])
    assert "**69.98** [VLT 69.98]" in written
    assert "a\\|b" in written


def test_the_verdicts_of_the_whole_grid_pool_its_studies() -> None:
    """`curves` has one seed of every level, Table 1 three of one: that level is judged."""
    grid = paper.table_1(paper.world())
    for level in (6, 8):
        paper.add(grid, "vqa", "imp", level, 0, {"vqa": 70.0}, study="curves")
    found = verdicts(cells(grid.plan(), grid.records), ONE_SD)
    (row,) = found[(found.task == "vqa") & (found.source == "imp")].to_dict("records")
    assert row["relaxed"] == pytest.approx(0.7, abs=1e-5)
    assert row["dense_n"] == row["score_n"] == 3
