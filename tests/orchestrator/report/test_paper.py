"""Test the paper's tables on the paper's own scores."""

from __future__ import annotations

import pandas as pd
import pytest

from orchestrator.plan.graph import DENSE
from orchestrator.report.data.tables import (
    DenseNetworks,
    Labels,
    cell_scores,
    dense_networks,
    level_scores,
    sweep_labels,
)
from orchestrator.report.data.verdicts import curve_verdicts
from orchestrator.report.page.page import RichText, Table, TableEntry, to_markdown
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
from tests.support.synthetic_sweep import SyntheticSweep
from trainables.spec import ModelSpec

ONE_SD = Win(ratio=0.99, tolerance="one_sd", seeds=3)
STRICT = Win(ratio=0.99, tolerance="none", seeds=3)


def read(grid: SyntheticSweep) -> tuple[pd.DataFrame, pd.DataFrame, DenseNetworks, Labels]:
    table = cell_scores(grid.plan(), grid.records)
    return table, level_scores(table), dense_networks(table), sweep_labels(grid.plan())


def text(entry: TableEntry) -> str:
    return entry if isinstance(entry, str) else entry.text


def note(entry: TableEntry) -> str:
    return "" if isinstance(entry, str) else entry.note


def rows_by_name(table: Table) -> dict[str, list[TableEntry]]:
    return {text(row[0]): list(row[1:]) for row in table.rows}


# Table 1


def table_1(rule: Win, grid: SyntheticSweep | None = None) -> Table:
    _, by_level, dense, labels = read(grid or paper.table_1(paper.empty_grid()))
    tidy = published.add_published_scores(controls.control_scores(by_level, dense, rule), labels)
    (table,) = controls.tables(tidy, rule, labels)
    return table


def test_table_1_matches_the_paper() -> None:
    rows = rows_by_name(table_1(ONE_SD))
    assert list(rows) == [
        "sparsity", "dense", "99 % of dense", "IMP", "random", "IMP, bert-base init",
        "IMP, shuffled within", "verdict on IMP",
    ]  # fmt: skip
    assert list(map(text, rows["sparsity"])) == [
        f"{10 * n} %" for n in paper.TICKET_LEVELS.values()
    ]
    assert text(rows["IMP"][0]) == "69.98 ± 0.05 (3)"
    assert set(map(text, rows["verdict on IMP"])) == {"relaxed winning"}
    for name, entries in rows.items():
        if name != "verdict on IMP":  # every printed number is below the same number of ours
            assert [note(e).removeprefix("VLT ") for e in entries] == [
                text(e).removesuffix(" (3)").removesuffix(" (1)") for e in entries
            ]


def test_under_the_strict_rule_four_tickets_of_table_1_miss() -> None:
    rows = rows_by_name(table_1(STRICT))
    missed = [text(e) == "misses" for e in rows["verdict on IMP"]]
    assert dict(zip(paper.COLUMNS, missed, strict=True)) == {
        name: name in ("vcr", "IR", "TR") for name in paper.COLUMNS
    }  # LXMERT's NLVR2 is the fourth
    bold = [isinstance(e, RichText) and e.strong for e in rows["IMP"]]
    assert bold == [not miss for miss in missed]


def test_a_column_shows_the_highest_level_that_meets_the_rule() -> None:
    sweep = SyntheticSweep()
    for seed in range(3):
        sweep.add_cell(DENSE, 0, 0.0, seed, 80.0 + seed)
        for level, score in enumerate((81.0, 80.5, 70.0), start=1):
            sweep.add_cell("imp", level, level / 10, seed, score + seed)
            sweep.add_cell("random", level, level / 10, seed, 60.0 + seed)
    rows = rows_by_name(table_1(STRICT, sweep))
    assert text(rows["sparsity"][0]) == "20 %"
    assert text(rows["random"][0]) == "61.00 ± 1.00 (3)"
    assert not note(rows["IMP"][0])  # easy_vqa is not in the paper


def test_a_column_shows_the_levels_that_a_study_sets() -> None:
    """The control exists only at 30 %, although 10 % would meet the rule."""
    sweep = SyntheticSweep()
    for seed in range(3):
        sweep.add_cell(DENSE, 0, 0.0, seed, 80.0)
        for level, score in enumerate((81.0, 79.0, 70.0), start=1):
            sweep.add_cell("imp", level, level / 10, seed, score)
    sweep.add_cell("reinit", 3, 0.3, 0, 60.0, origin="easy_vqa/default/imp")
    rows = rows_by_name(table_1(STRICT, sweep))
    assert text(rows["sparsity"][0]) == "30 %"
    assert text(rows["verdict on IMP"][0]) == "misses"
    assert text(rows["IMP, new init"][0]) == "60.00 (1)"


def test_missing_scores_are_shown_as_missing_in_table_1() -> None:
    sweep = SyntheticSweep()
    for task in ("a", "b"):
        for seed in range(3):
            sweep.add_cell(DENSE, 0, 0.0, seed, 80.0 if task == "a" else None, task=task)
            sweep.add_cell("imp", 1, 0.1, seed, 80.0 if task == "a" else None, task=task)
    sweep.add_cell("random", 1, 0.1, 0, 60.0, task="a")
    rows = rows_by_name(table_1(ONE_SD, sweep))
    assert list(map(text, rows["random"])) == ["60.00 (1)", "–"]
    assert list(map(text, rows["dense"])) == ["80.00 ± 0.00 (3)", "–"]
    assert list(map(text, rows["verdict on IMP"])) == ["winning", "undecided"]


# Table 2


def table_2(grid: SyntheticSweep) -> tuple[Table, pd.DataFrame]:
    _, by_level, dense, labels = read(grid)
    tidy = published.add_published_scores(
        universal.universal_scores(by_level, dense, ONE_SD, labels), labels
    )
    averages = published.add_published_drops(universal.average_drops(tidy, labels), labels)
    (table,) = universal.tables(tidy, averages)
    return table, averages


def test_the_averages_of_table_2_follow_from_its_scores() -> None:
    """VLT's printed scores give its eight printed averages, to the last digit."""
    table, averages = table_2(paper.table_2(paper.table_1(paper.empty_grid())))
    averages_text = [f"{row[name]:.2f}" for _, row in averages.iterrows() for name in DROPS]
    assert averages_text == ["1.00", "0.52", "1.88", "1.10", "3.90", "2.66", "6.80", "4.78"]
    rows = rows_by_name(table)
    assert list(rows) == ["0 % (dense)", "50 %", "60 %", "70 %", "80 %"]
    assert [text(entry) for entry in rows["70 %"][-2:]] == ["3.90 %", "2.66 %"]
    assert [note(entry) for entry in rows["70 %"][-2:]] == ["VLT 3.90 %", "VLT 2.66 %"]
    assert list(map(note, rows["60 %"][:2])) == ["VLT 70.41", "VLT 59.44"]


DROPS = ("drop", "drop_without_vcr")


def test_an_average_is_missing_until_every_column_has_a_score() -> None:
    grid = paper.table_2(paper.table_1(paper.empty_grid()))
    removed = next(c for c in grid.cells if c.curve.source.startswith("transfer") and c.level == 6)
    del grid.records[removed.trial]
    table, averages = table_2(grid)
    assert list(averages["drop"].isna()) == [False, True, False, False]
    row = rows_by_name(table)["60 %"]
    assert [text(row[0]), text(row[1]), text(row[-2])] == ["–", "59.44", "–"]


# The transfer matrix


def test_the_transfer_matrix_matches_manual_results() -> None:
    sweep = SyntheticSweep(tasks={"a": "vqa", "b": "retrieval", "corpus": "pretraining"})
    sweep.add_pretraining_run("uniter-tiny", "corpus")
    two = {"ir1": 40.0, "tr1": 50.0}
    sweep.add_cell(DENSE, 0, 0.0, 0, 80.0, task="a")
    sweep.add_cell(DENSE, 0, 0.0, 0, 45.0, task="b", scores=two)
    sweep.add_cell("imp", 5, 0.5, 0, 76.0, task="a")
    sweep.add_cell("transfer:b", 5, 0.5, 0, 72.0, task="a", origin="b/default/imp")
    sweep.add_cell("transfer:corpus", 5, 0.5, 0, 78.0, task="a", origin="corpus/default/imp")
    sweep.add_cell("transfer:a", 5, 0.5, 0, 36.0, task="b", origin="a/default/imp",
               scores={"ir1": 36.0, "tr1": 45.0})  # fmt: skip
    sweep.add_cell("imp", 5, 0.5, 0, None, task="b")
    _, by_level, dense, labels = read(sweep)
    matrix = transfer.transfer_scores(by_level, dense, ONE_SD, labels)
    assert transfer.ticket_order(matrix, labels) == ["a", "b", "corpus"]
    by_ticket = matrix.set_index(["ticket", "task", "metric"])
    assert by_ticket.of_dense["b", "a", ""] == pytest.approx(90.0)
    assert by_ticket.of_own["b", "a", ""] == pytest.approx(100 * 72 / 76)
    assert by_ticket.of_dense["a", "b", "TR"] == pytest.approx(90.0)
    assert pd.isna(by_ticket.of_own["a", "b", "IR"])
    table = transfer.score_table(matrix, 5, labels)
    assert list(table.header) == ["ticket of", "a", "b IR", "b TR"]
    rows = rows_by_name(table)
    assert [text(e) for e in rows["b"]] == ["72.00", "–", "–"]
    assert [text(e) for e in rows["corpus"]] == ["78.00", "–", "–"]
    assert note(rows["a"][0]) == "own"


def test_a_sweep_without_transfer_between_tasks_has_no_matrix() -> None:
    _, by_level, dense, labels = read(paper.table_2(paper.table_1(paper.empty_grid())))
    assert transfer.transfer_scores(by_level, dense, ONE_SD, labels).empty


# Adversarial training


def test_table_5_matches_the_paper() -> None:
    grid = paper.table_5(paper.table_2(paper.table_1(paper.empty_grid())))
    table, by_level, _, labels = read(grid)
    tidy = published.add_published_scores(adversarial.adversarial_scores(table, by_level), labels)
    assert tidy.same_ticket.all()
    (printed_table,) = adversarial.tables(tidy)
    assert [list(map(text, row[:2])) for row in printed_table.rows] == [
        [f"{sparsity} %", recipe]
        for sparsity in (60, 70)
        for recipe in ("default (standard)", "adversarial (adversary: text)")
    ]
    assert text(printed_table.rows[1][2]) == "70.80 (+0.39)"
    for row in printed_table.rows:
        printed = [note(entry).removeprefix("VLT ") for entry in row[2:]]
        assert printed == [text(entry).split(" ")[0] for entry in row[2:]]


def test_an_adversarial_chain_has_its_own_tickets() -> None:
    grid = paper.empty_grid()
    paper.add_scores(grid, "vqa", "imp", 7, 0, {"vqa": 69.0})
    paper.add_scores(grid, "vqa", "imp", 7, 0, {"vqa": 70.0}, recipe="adversarial")
    paper.add_scores(grid, "gqa", "imp", 7, 0, {"gqa": 60.0}, recipe="adversarial")
    table, by_level, _, _ = read(grid)
    tidy = adversarial.adversarial_scores(table, by_level)
    assert not tidy.same_ticket.any()
    gains = tidy[tidy.adversary != "none"].set_index("task").gain
    assert gains["vqa"] == pytest.approx(1.0)
    assert pd.isna(gains["gqa"])  # no standard score to compare with


# Rewinding


def test_each_rewind_point_has_a_row() -> None:
    sweep = SyntheticSweep()
    for rewind, level in ((0, 1), (0, 2), (60, 1), (600, 2)):
        sweep.add_cell("imp", level, level / 10, 0, 80.0 + rewind / 100, rewind=rewind)
    (table,) = rewinding.tables(level_scores(cell_scores(sweep.plan(), sweep.records)))
    assert list(table.header) == ["from", "10 %", "20 %"]
    assert [list(row) for row in table.rows] == [
        ["θ₀", "80.00", "80.00"], ["θ₆₀", "80.60", "–"], ["θ₆₀₀", "–", "86.00"],
    ]  # fmt: skip


# Published numbers


def test_the_published_numbers_are_consistent() -> None:
    scores = published.published_scores()
    key = ["architecture", "task_name", "metric", "sparsity"]
    dense = scores[(scores.kind == "dense") & (scores.table != "2")].set_index(key).published_mean
    lines = scores[scores.kind == "line"].set_index(key).published_mean
    pd.testing.assert_series_equal(lines, (0.99 * dense[lines.index]), atol=0.0051, rtol=0)
    repeated = (
        scores[(scores.table == "2") & (scores.kind == "dense")].set_index(key).published_mean
    )
    assert (repeated == dense[repeated.index]).all()
    standard = scores[(scores.table == "5") & ~scores.adversarial].set_index(key).published_mean
    universal_ = scores[(scores.table == "2") & (scores.kind != "dense")].set_index(key)
    assert (standard == universal_.published_mean[standard.index]).all()
    assert len(standard) == 12


@pytest.mark.parametrize(
    ("row", "printed"),
    [
        (("1", "uniter", "retrieval", "TR", "shuffle_within"), (48.00, None, 60)),
        (("1", "uniter", "vcr", "", "imp"), (53.15, 1.02, 50)),
        (("3", "lxmert", "gqa", "", "random"), (47.88, 0.55, 70)),
        (("4", "vilt", "nlvr2", "", "imp"), (75.22, 0.41, 30)),
    ],
)
def test_single_published_numbers(row: tuple[str, ...], printed: tuple[float | None, ...]) -> None:
    names = ["table", "architecture", "task_name", "metric", "kind"]
    selected = published.published_scores().set_index(names).sort_index().loc[row]
    values = selected[["published_mean", "published_sd", "sparsity"]].to_numpy()
    assert [None if pd.isna(value) else value for value in values.ravel()] == list(printed)


def test_published_scores_are_added_only_to_the_same_cell() -> None:
    tidy = pd.DataFrame(
        {
            "model": ["base", "base", "base", "tiny"], "task": ["q"] * 4, "metric": [""] * 4,
            "source": ["imp", "imp", "imp", "imp"], "sparsity": [0.7, 0.6, 0.7, 0.7],
            "adversary": ["none", "none", "text", "none"],
        }
    )  # fmt: skip
    sizes = {size: ModelSpec(architecture="uniter", size=size) for size in ("base", "tiny")}
    with_published = published.add_published_scores(tidy, Labels(sizes, {"q": "vqa"}))
    assert with_published.published_mean.fillna(0).to_list() == [69.98, 0, 0, 0]


def test_markdown_has_both_lines_of_an_entry() -> None:
    rows = [["IMP", RichText(text="69.98", note="VLT 69.98", strong=True)], ["a|b", "–"]]
    written = to_markdown([Table(header=["", "vqa"], rows=rows, caption="uniter")])
    assert "**69.98** [VLT 69.98]" in written
    assert "a\\|b" in written


def test_verdicts_pool_the_seeds_of_all_studies() -> None:
    """`curves` has one seed per level, Table 1 three seeds of one level, which gets the verdict."""
    grid = paper.table_1(paper.empty_grid())
    for level in (6, 8):
        paper.add_scores(grid, "vqa", "imp", level, 0, {"vqa": 70.0}, study="curves")
    verdicts = curve_verdicts(cell_scores(grid.plan(), grid.records), ONE_SD)
    (row,) = verdicts[(verdicts.task == "vqa") & (verdicts.source == "imp")].to_dict("records")
    assert row["relaxed"] == pytest.approx(0.7, abs=1e-5)
    assert row["dense_n"] == row["score_n"] == 3
