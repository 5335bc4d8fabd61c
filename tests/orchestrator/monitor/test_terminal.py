"""What one sees of a sweep: chains as rows, levels as cells, counts and the time left."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.monitor.board import MOST_ROWS, Board, Mark
from orchestrator.monitor.terminal import Progress, clock
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.schedule.frontier import Frontier, Unit
from tests.support.sweeps import document, plan_of


@pytest.fixture
def plan() -> Plan:
    """Two chains of two levels from one dense run, each level with a random control: 9 runs."""
    levels = {"rate": 0.2, "levels": 2}
    return plan_of(document(rewind=[0, 5], schedule=levels, controls=["random"]))


def shown(board: Board) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(board.table())
    return str(console.file.getvalue()).splitlines()  # type: ignore[attr-defined]


def chain(plan: Plan, rewind: int) -> list[str]:
    """The runs of an IMP chain, dense first."""
    return [
        cell.trial
        for cell in plan.cells
        if cell.curve.source == DENSE
        or (cell.curve.source == "imp" and cell.curve.rewind == rewind)
    ]


def test_a_board_counts_each_run_once(plan: Plan) -> None:
    dense, first, second = chain(plan, 0)
    board = Board(plan, {dense: Mark.DONE, first: Mark.RUNNING, second: Mark.FAILED})
    assert board.counts() == {
        Mark.OPEN: 6,
        Mark.RUNNING: 1,
        Mark.DONE: 1,
        Mark.FAILED: 1,
        Mark.BLOCKED: 0,
    }
    assert board.summary() == "1/9 trials, 1 running, 1 failed"
    board.set(first, Mark.FAILED)
    assert board.summary() == "1/9 trials, 0 running, 2 failed"


def test_a_board_is_settled_when_the_rest_needs_what_failed(plan: Plan) -> None:
    _, first, second = chain(plan, 0)
    runs = [trial.key for trial in plan.training_runs()]
    marks = {key: Mark.DONE for key in runs if key not in (first, second)}
    assert Board(plan, marks | {first: Mark.FAILED}).settled()
    assert not Board(plan, marks | {second: Mark.FAILED}).settled()
    assert not Board(plan, marks | {first: Mark.DONE, second: Mark.RUNNING}).settled()
    assert Board(plan, dict.fromkeys(runs, Mark.DONE)).settled()


def test_what_needs_a_failed_run_is_blocked_and_costs_no_more_time(plan: Plan) -> None:
    dense, first, second = chain(plan, 0)
    board = Board(plan, {dense: Mark.DONE})
    assert len(list(board.open())) == 8
    board.set(first, Mark.FAILED)
    assert board.mark(second) is Mark.BLOCKED
    left = {trial.key for trial in board.open()}
    assert len(left) == 6
    assert not left & {dense, first, second}
    assert board.summary() == "1/9 trials, 0 running, 1 failed, 1 blocked"


def test_a_row_per_chain_and_one_for_all_random_tickets(plan: Plan) -> None:
    dense, first, second = chain(plan, 0)
    marks = {dense: Mark.DONE, first: Mark.DONE, second: Mark.RUNNING}
    header, theta_0, theta_5, random = shown(Board(plan, marks, {dense: 90.0, first: 88.25}))
    assert header.split() == ["chain", "seed", "levels", "last", "score"]
    assert theta_0.split() == ["uniter-tiny", "easy_vqa", "theta_0", "0", "●●◐", "88.2"]
    assert theta_5.split() == ["uniter-tiny", "easy_vqa", "theta_5", "0", "●··", "90.0"]
    assert random.split() == ["random", "0/4"]
    board = Board(plan, {dense: Mark.DONE, first: Mark.FAILED})
    assert "●✗–" in shown(board)[1]
    leaves = [cell.trial for cell in plan.cells if cell.curve.source == "random"]
    for key, mark in zip(leaves, (Mark.DONE, Mark.RUNNING, Mark.FAILED), strict=False):
        board.set(key, mark)
    assert " ".join(shown(board)[3].split()) == "random 1/4, 1 running, 1 failed"


def test_a_wide_sweep_fits_a_screen() -> None:
    wide = plan_of(document(seed=list(range(MOST_ROWS + 7)), controls=[]))
    lines = shown(Board(wide))
    assert len(lines) == 1 + MOST_ROWS + 1
    assert "7 more chains" in lines[-1]
    last = [cell.trial for cell in wide.cells if cell.curve.source == "imp"][-1]
    assert "✗" in shown(Board(wide, {last: Mark.FAILED}))[1]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=60)


def units(plan: Plan, count: int) -> list[Unit]:
    frontier = Frontier(plan)
    return [frontier.unit(key) for key in chain(plan, 0)[:count]]


def test_a_lane_is_followed_unit_by_unit(plan: Plan, console: Console) -> None:
    lane = units(plan, 3)
    board = Board(plan)
    progress = Progress(board, console)
    assert progress.eta_s() is None
    progress.begun(lane[0])
    assert [board.mark(unit.head) for unit in lane] == [Mark.RUNNING, Mark.OPEN, Mark.OPEN]
    progress.committed(lane[0], [lane[0].head], 90.0)
    progress.begun(lane[1])
    assert [board.mark(unit.head) for unit in lane] == [Mark.DONE, Mark.RUNNING, Mark.OPEN]
    assert board.scores == {lane[0].head: 90.0}
    assert progress.line().startswith("1/9 trials, 1 running, 0 failed, about 0:00 left")
    progress.ended(lane)  # its worker is gone
    assert [board.mark(unit.head) for unit in lane] == [Mark.DONE, Mark.OPEN, Mark.OPEN]


def test_the_time_left_follows_the_pace(
    plan: Plan, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 3 of 9 equal runs, what is left takes twice what went by."""
    now = 0.0
    monkeypatch.setattr(
        "orchestrator.monitor.terminal.time", SimpleNamespace(monotonic=lambda: now)
    )
    progress = Progress(Board(plan), console)
    now = 50.0  # until a worker is there
    for unit in units(plan, 3):
        progress.begun(unit)
        progress.committed(unit, [unit.head], None)
    now = 150.0
    assert progress.eta_s() == pytest.approx(200.0)


def test_a_failure_is_told_whole_and_as_it_is(plan: Plan, console: Console) -> None:
    """An error may hold what looks like markup; it must neither vanish nor raise."""
    (unit,) = units(plan, 1)
    unit.error = "KeyError: [/data/x] is not in [bold] " + "long " * 20
    board = Board(plan)
    Progress(board, console).failed(unit)
    assert board.mark(unit.head) is Mark.FAILED
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.strip() == f"failed {unit.head[:12]}: {unit.error}".strip()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")]
)
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
