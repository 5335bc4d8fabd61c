"""Every sweep that ships loads, expands, previews, and says about itself what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator import workspace
from orchestrator.preview import preview

ROOT = Path(__file__).parents[1]
SWEEPS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))


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
    planned = workspace.planned(ROOT / sweep, tmp_path)
    shown = preview(planned.plan, {}, planned.pools(), planned.sweep.placement.gpus)
    assert shown.to_run == shown.trials <= shown.naive_trials
    cost = re.search(r"([\d,]+) training runs of ([\d,]+) steps", entry(sweep, "cost"))
    assert cost, f"{sweep}: `cost` gives the number of training runs and their steps"
    runs, steps = (int(number.replace(",", "")) for number in cost.groups())
    assert (shown.trials, shown.steps) == (runs, runs * steps)


@pytest.mark.parametrize("sweep", SWEEPS, ids=str)
def test_its_header_opens_with_purpose_command_cost_and_expectation(sweep: Path) -> None:
    purpose = header(sweep)[0]
    assert purpose.endswith((".", "?"))
    assert str(sweep) in entry(sweep, "command")
    assert entry(sweep, "expect")
    order = [line.split()[0] for line in header(sweep) if line]
    assert order.index("command") < order.index("cost") < order.index("expect")
