"""Every sweep that ships loads, expands, previews, and says about itself what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.api import workspace
from orchestrator.plan.counts import preview
from tests.support.paths import ROOT

CLUSTERS = ROOT / "configs/clusters"  # tests/cluster renders these
SWEEPS = sorted(
    path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml") if path.parent != CLUSTERS
)


def header(sweep: Path) -> list[str]:
    """The lines of the comment that the file opens with, without their `#`."""
    lines = (ROOT / sweep).read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").strip() for line in lines[:end]]


def entry(sweep: Path, name: str) -> str:
    """What the header says under `name`."""
    found = [line for line in header(sweep) if line.split(maxsplit=1)[:1] == [name]]
    assert len(found) == 1, f"{sweep}: its header needs one line `{name}`"
    return found[0].removeprefix(name).strip()


def test_there_are_sweeps() -> None:
    assert Path("configs/quickstart.yaml") in SWEEPS


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_it_plans_as_its_header_says(sweep: Path, tmp_path: Path) -> None:
    planned = workspace.planned(ROOT / sweep, tmp_path, offline=True)
    shown = preview(planned.plan, {}, planned.pools())
    assert shown.to_run == shown.trials + shown.rounds <= shown.naive_trials + shown.naive_rounds
    cost = entry(sweep, "cost")
    if equal := re.search(r"([\d,]+) training runs of ([\d,]+) steps", cost):
        runs, steps = numbers(equal)
        assert (shown.trials, shown.steps) == (runs, runs * steps)
    else:
        each = re.search(r"([\d,]+) fine-tunes and ([\d,]+) pre-training rounds", cost)
        assert each, f"{sweep}: `cost` gives the number of runs, with their steps or by kind"
        assert (shown.trials, shown.rounds) == numbers(each)


def numbers(found: re.Match[str]) -> tuple[int, ...]:
    return tuple(int(number.replace(",", "")) for number in found.groups())


VLT = Path("configs/papers/vlt.yaml")
VLT_BLOCKS = {
    # study: (naive fine-tunes, shared), as counted by hand from the paper. Level 0 of the own
    # chains is one of the three dense seeds, so it counts there: 378 + 7 and 21 - 7.
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


def test_the_papers_grid_has_the_papers_counts(tmp_path: Path) -> None:
    planned = workspace.planned(ROOT / VLT, tmp_path, offline=True)
    shown = preview(planned.plan, {}, planned.pools())
    assert {b.study: (b.naive_trials, b.trials) for b in shown.blocks} == VLT_BLOCKS
    assert (shown.naive_trials, shown.trials) == (3578, 783)
    assert (shown.naive_rounds, shown.rounds) == (315 + 78, 9)
    assert shown.critical_path == 10


def test_chains_of_their_own_cost_918(tmp_path: Path) -> None:
    """9 more runs for each of 15 chains: the levels 0 to 8 are trained to cut and to score."""
    strict = (ROOT / VLT).read_text().replace("rounds: shared", "rounds: separate")
    (tmp_path / "strict.yaml").write_text(strict)
    planned = workspace.planned(tmp_path / "strict.yaml", tmp_path, offline=True)
    shown = preview(planned.plan, {}, planned.pools())
    assert (shown.trials, shown.rounds) == (918, 9)


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_its_header_opens_with_purpose_command_cost_and_expectation(sweep: Path) -> None:
    purpose = header(sweep)[0]
    assert purpose.endswith((".", "?"))
    assert str(sweep) in entry(sweep, "command")
    assert entry(sweep, "expect")
    order = [line.split()[0] for line in header(sweep) if line]
    assert order.index("command") < order.index("cost") < order.index("expect")
