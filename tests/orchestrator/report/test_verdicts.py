"""Test verdicts on the numbers of "Playing Lottery Tickets with Vision and Language"."""

from __future__ import annotations

import math

import pytest

from orchestrator.plan.graph import DENSE
from orchestrator.report.data.formatting import verdict_table
from orchestrator.report.data.tables import cell_scores
from orchestrator.report.data.verdicts import curve_verdicts
from orchestrator.report.sections.headline import headline
from orchestrator.sweep.config import Win
from tests.support.synthetic_sweep import SyntheticSweep

STRICT = Win(ratio=0.99, tolerance="none", seeds=3)
ONE_SD = Win(ratio=0.99, tolerance="one_sd", seeds=3)

# Tables 1 and 3. Task: sparsity, dense mean and sd, ticket mean and sd, and whether the mean alone
# reaches 99 %
TABLE = {
    "VQA": (0.7, 70.64, 0.06, 69.98, 0.05, True),
    "GQA": (0.7, 59.64, 0.15, 59.26, 0.09, True),
    "VCR": (0.5, 54.37, 0.31, 53.15, 1.02, False),
    "NLVR2": (0.6, 76.75, 0.19, 76.32, 0.41, True),
    "SNLI-VE": (0.6, 78.47, 0.10, 77.69, 0.07, True),
    "RefCOCO+": (0.7, 74.73, 0.06, 74.06, 0.27, True),
    "Flickr30k IR": (0.6, 71.25, 0.11, 70.15, 0.71, False),
    "Flickr30k TR": (0.6, 84.63, 1.02, 83.77, 0.76, False),
    "LXMERT NLVR2": (0.7, 74.90, 0.26, 74.03, 0.71, False),
}


def add_seeds(
    sweep: SyntheticSweep, source: str, sparsity: float, mean: float, sd: float = 0.0, *,
    task: str = "VQA", rewind: int = 0, seeds: int = 3,
) -> None:  # fmt: skip
    """Add three seeds with exactly this mean and sample standard deviation."""
    level = round(10 * sparsity)
    for seed, score in zip(range(seeds), (mean - sd, mean, mean + sd), strict=False):
        sweep.add_cell(source, level, sparsity, seed, score, task=task, rewind=rewind)


@pytest.mark.parametrize("rule", [STRICT, ONE_SD], ids=["strict", "one_sd"])
def test_table_1_needs_its_tolerance(rule: Win) -> None:
    """All published tickets pass within one standard deviation; four means miss the line."""
    sweep = SyntheticSweep()
    for task, (sparsity, dense, dense_sd, ticket, ticket_sd, _) in TABLE.items():
        add_seeds(sweep, DENSE, 0.0, dense, dense_sd, task=task)
        add_seeds(sweep, "imp", sparsity - 0.1, dense, ticket_sd, task=task)
        add_seeds(sweep, "imp", sparsity, ticket, ticket_sd, task=task)
    table = curve_verdicts(cell_scores(sweep.plan(), sweep.records), rule).set_index("task")
    for task, (sparsity, dense, _, _, _, strict) in TABLE.items():
        reaches = strict or rule is ONE_SD
        assert table.line[task] == pytest.approx(0.99 * dense)
        expected = sparsity if reaches else sparsity - 0.1
        assert table.relaxed[task] == pytest.approx(expected, abs=1e-5), task


def verdict_row(sweep: SyntheticSweep, rule: Win, source: str = "imp") -> dict[str, object]:
    table = curve_verdicts(cell_scores(sweep.plan(), sweep.records), rule)
    (row,) = table[table.source == source].to_dict("records")
    return {str(name): value for name, value in row.items()}


def test_a_score_equal_to_the_line_wins() -> None:
    sweep = SyntheticSweep()
    add_seeds(sweep, DENSE, 0.0, 70.0)
    add_seeds(sweep, "imp", 0.5, 69.3)  # 0.99 * 70 is 69.30000000000001 in binary floats
    row = verdict_row(sweep, STRICT)
    assert row["verdict"] == "relaxed winning"
    assert math.isnan(float(str(row["winning"])))


def test_unbroken_stops_before_the_first_level_that_misses() -> None:
    sweep = SyntheticSweep()
    add_seeds(sweep, DENSE, 0.0, 80.0)
    for sparsity, mean in ((0.1, 81.0), (0.2, 79.5), (0.3, 70.0), (0.4, 80.5)):
        add_seeds(sweep, "imp", sparsity, mean)
    row = verdict_row(sweep, STRICT)
    assert row["relaxed"] == pytest.approx(0.4, abs=1e-5)
    assert row["unbroken"] == pytest.approx(0.2, abs=1e-5)
    assert row["verdict"] == "winning"


def test_the_control_has_the_same_sparsity_and_rewind_point() -> None:
    sweep = SyntheticSweep()
    add_seeds(sweep, DENSE, 0.0, 80.0)
    add_seeds(sweep, "imp", 0.5, 80.0, rewind=60)
    for rewind, mean in ((0, 61.0), (60, 62.0)):
        add_seeds(sweep, "random", 0.5, mean, 1.5, rewind=rewind)
        add_seeds(sweep, "random", 0.6, 50.0, rewind=rewind)
    row = verdict_row(sweep, STRICT)
    assert row["random_mean"] == pytest.approx(62.0)
    assert row["random_sd"] == pytest.approx(1.5)
    assert math.isnan(float(str(row["random_layerwise_mean"])))


def test_too_few_seeds_give_no_verdict() -> None:
    sweep = SyntheticSweep()
    add_seeds(sweep, DENSE, 0.0, 80.0)
    add_seeds(sweep, "imp", 0.5, 80.0, seeds=2)
    assert verdict_row(sweep, STRICT)["verdict"] == "undecided"
    two = Win(ratio=0.99, tolerance="none", seeds=2)
    assert verdict_row(sweep, two)["verdict"] == "winning"


def test_a_low_score_gives_the_verdict_none() -> None:
    sweep = SyntheticSweep()
    add_seeds(sweep, DENSE, 0.0, 80.0)
    add_seeds(sweep, "imp", 0.5, 60.0)
    assert verdict_row(sweep, STRICT)["verdict"] == "none"


def test_skipped_cells_are_not_open() -> None:
    sweep = SyntheticSweep()
    add_seeds(sweep, DENSE, 0.0, 80.0)
    add_seeds(sweep, "imp", 0.5, 80.0)
    skipped = {sweep.add_cell("imp", 7, 0.7, seed, None, task="VQA") for seed in range(3)}
    sweep.add_cell("imp", 6, 0.6, 0, None, task="VQA")
    cells = cell_scores(sweep.plan(), sweep.records, (), skipped)
    verdicts = curve_verdicts(cells, STRICT)
    assert list(verdicts.open) == [1]
    (sentence,), _ = headline(verdicts, STRICT)
    assert "1 of these cells" in sentence


def test_columns_with_a_single_value_are_left_out_of_the_verdict_table() -> None:
    sweep = SyntheticSweep()
    add_seeds(sweep, DENSE, 0.0, 80.0)
    add_seeds(sweep, "imp", 0.5, 80.0)
    add_seeds(sweep, "random", 0.5, 60.0)
    header, rows = verdict_table(curve_verdicts(cell_scores(sweep.plan(), sweep.records), STRICT))
    assert header[:2] == ["tickets", "verdict"]
    assert [line[:2] for line in rows] == [["IMP θ₀", "winning"], ["random θ₀", "none"]]
    assert all(len(line) == len(header) for line in rows)
