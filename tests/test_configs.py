"""Every sweep in `configs` loads, expands, and has the counts that its header states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.api import workspace
from orchestrator.plan.counts import count_plan
from tests.support.paths import ROOT

CLUSTERS = ROOT / "configs/clusters"  # tests/cluster renders these
SWEEPS = sorted(
    path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml") if path.parent != CLUSTERS
)


def header(sweep: Path) -> list[str]:
    """Return the lines of the comment at the start of the file, without their `#` and without the
    line for the editor."""
    lines = (ROOT / sweep).read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    comment = [line.removeprefix("#").strip() for line in lines[:end]]
    return [line for line in comment if not line.startswith("yaml-language-server:")]


def entry(sweep: Path, name: str) -> str:
    """Return the text of the header's line `name`."""
    lines = [line for line in header(sweep) if line.split(maxsplit=1)[:1] == [name]]
    assert len(lines) == 1, f"{sweep}: its header needs one line `{name}`"
    return lines[0].removeprefix(name).strip()


def test_the_shipped_sweeps_are_found() -> None:
    assert Path("configs/quickstart.yaml") in SWEEPS


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_a_sweep_has_the_counts_in_its_header(sweep: Path, tmp_path: Path) -> None:
    planned = workspace.plan_sweep(ROOT / sweep, tmp_path, offline=True)
    counts = count_plan(planned.plan, {}, planned.pools())
    assert (
        counts.new_runs
        == counts.training_runs + counts.pretraining_runs
        <= counts.naive_training_runs + counts.naive_pretraining_runs
    )
    cost = entry(sweep, "cost")
    if uniform := re.search(r"([\d,]+) training runs of ([\d,]+) steps", cost):
        runs, steps = numbers(uniform)
        assert (counts.training_runs, counts.remaining_steps) == (runs, runs * steps)
    else:
        by_kind = re.search(r"([\d,]+) fine-tunes and ([\d,]+) pre-training rounds", cost)
        assert by_kind, (
            f"{sweep}: `cost` must state the number of runs, with their steps or by kind"
        )
        assert (counts.training_runs, counts.pretraining_runs) == numbers(by_kind)


def numbers(match: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(number.replace(",", "")) for number in match.groups())


VLT = Path("configs/papers/vlt.yaml")
VLT_STUDIES = {
    # study: (naive fine-tunes, shared fine-tunes), counted by hand from the paper. Level 0 of the
    # chains in `own` is one of the three dense seeds and counts there: 378 + 7 and 21 - 7.
    "own": (378 + 7, 70),
    "dense": (14, 14),
    "repeats": (102, 14),
    "random": (63, 63),
    "other_weights": (102, 14),
    "universal": (63, 63),
    "transfer": (2268, 378),
    "lxmert": (3 + 3 * 54 + 27, 30 + 27),
    "lxmert_repeats": (6 + 2 * 3 * 8 + 6, 6 + 6 + 6),
    "vilt": (2 + 2 * 54 + 18, 20 + 18),
    "vilt_repeats": (4 + 2 * 2 * 4 + 4, 4 + 4 + 4),
    "adversarial": (165, 30),
    "adversarial_universal": (12, 12),
}


def test_the_grid_of_the_paper_has_the_counts_of_the_paper(tmp_path: Path) -> None:
    planned = workspace.plan_sweep(ROOT / VLT, tmp_path, offline=True)
    counts = count_plan(planned.plan, {}, planned.pools())
    assert {
        b.study: (b.naive_training_runs, b.training_runs) for b in counts.studies
    } == VLT_STUDIES
    assert (counts.naive_training_runs, counts.training_runs) == (3578, 783)
    assert (counts.naive_pretraining_runs, counts.pretraining_runs) == (315 + 78, 9)
    assert counts.critical_path == 10


def test_separate_rounds_take_918_fine_tunes(tmp_path: Path) -> None:
    """9 more runs for each of 15 chains: levels 0 to 8 are trained to prune and again to score."""
    separate = (ROOT / VLT).read_text().replace("rounds: shared", "rounds: separate")
    (tmp_path / "separate.yaml").write_text(separate)
    planned = workspace.plan_sweep(tmp_path / "separate.yaml", tmp_path, offline=True)
    counts = count_plan(planned.plan, {}, planned.pools())
    assert (counts.training_runs, counts.pretraining_runs) == (918, 9)


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_a_header_states_purpose_command_cost_and_expectation(sweep: Path) -> None:
    purpose = header(sweep)[0]
    assert purpose.endswith((".", "?"))
    assert str(sweep) in entry(sweep, "command")
    assert entry(sweep, "expect")
    order = [line.split()[0] for line in header(sweep) if line]
    assert order.index("command") < order.index("cost") < order.index("expect")
