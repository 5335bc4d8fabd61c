"""The progress of a sweep in the terminal: table, counts and time left."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.monitor.board import MAX_CHAIN_ROWS, Board, TrialState
from orchestrator.monitor.terminal import TerminalProgress, format_duration
from orchestrator.plan.graph import DENSE, Plan
from orchestrator.schedule.frontier import Frontier, WorkItem
from orchestrator.schedule.run_events import (
    ChunkEnded,
    ItemCommitted,
    ItemFailed,
    ItemStarted,
    ItemsWanted,
)
from tests.support.sweeps import plan_of, sweep_document


@pytest.fixture
def plan() -> Plan:
    """Two chains of two levels from one dense run, each level with a random control: 9 runs."""
    levels = {"rate": 0.2, "levels": 2}
    return plan_of(sweep_document(rewind=[0, 5], schedule=levels, controls=["random"]))


def render(board: Board) -> list[str]:
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
    board = Board(
        plan, {dense: TrialState.DONE, first: TrialState.RUNNING, second: TrialState.FAILED}
    )
    assert board.counts() == {
        TrialState.PENDING: 6,
        TrialState.RUNNING: 1,
        TrialState.DONE: 1,
        TrialState.FAILED: 1,
        TrialState.BLOCKED: 0,
        TrialState.SKIPPED: 0,
    }
    assert board.summary() == "1/9 trials, 1 running, 1 failed"
    board.set_state(first, TrialState.FAILED)
    assert board.summary() == "1/9 trials, 0 running, 2 failed"


def test_a_board_is_settled_if_only_blocked_trials_are_left(plan: Plan) -> None:
    _, first, second = chain(plan, 0)
    runs = [trial.key for trial in plan.training_runs()]
    states = {key: TrialState.DONE for key in runs if key not in (first, second)}
    assert Board(plan, states | {first: TrialState.FAILED}).settled()
    assert not Board(plan, states | {second: TrialState.FAILED}).settled()
    assert not Board(plan, states | {first: TrialState.DONE, second: TrialState.RUNNING}).settled()
    assert Board(plan, dict.fromkeys(runs, TrialState.DONE)).settled()


def test_descendants_of_a_failed_run_are_blocked_and_not_unfinished(plan: Plan) -> None:
    dense, first, second = chain(plan, 0)
    board = Board(plan, {dense: TrialState.DONE})
    assert len(list(board.unfinished())) == 8
    board.set_state(first, TrialState.FAILED)
    assert board.state(second) is TrialState.BLOCKED
    unfinished = {trial.key for trial in board.unfinished()}
    assert len(unfinished) == 6
    assert not unfinished & {dense, first, second}
    assert board.summary() == "1/9 trials, 0 running, 1 failed, 1 blocked"


def test_skipped_runs_are_settled_until_they_are_wanted(plan: Plan, console: Console) -> None:
    _, first, second = chain(plan, 0)
    runs = [trial.key for trial in plan.training_runs()]
    states = {key: TrialState.DONE for key in runs if key not in (first, second)}
    board = Board(plan, states | dict.fromkeys((first, second), TrialState.SKIPPED))
    assert board.settled()
    assert board.summary() == "7/9 trials, 0 failed, 2 skipped"
    assert "●○○" in render(board)[1]
    progress = TerminalProgress(board, console)
    _, wanted, _ = items(plan, 3)
    progress.on_event(ItemsWanted([wanted]))
    assert [trial.key for trial in board.unfinished()] == [first]
    assert board.summary() == "7/9 trials, 0 running, 0 failed, 1 skipped"


def test_each_chain_has_a_row_and_all_random_tickets_share_one(plan: Plan) -> None:
    dense, first, second = chain(plan, 0)
    states = {dense: TrialState.DONE, first: TrialState.DONE, second: TrialState.RUNNING}
    header, theta_0, theta_5, random = render(Board(plan, states, {dense: 90.0, first: 88.25}))
    assert header.split() == ["chain", "seed", "levels", "last", "score"]
    assert theta_0.split() == ["uniter-tiny", "easy_vqa", "theta_0", "0", "●●◐", "88.2"]
    assert theta_5.split() == ["uniter-tiny", "easy_vqa", "theta_5", "0", "●··", "90.0"]
    assert random.split() == ["random", "0/4"]
    board = Board(plan, {dense: TrialState.DONE, first: TrialState.FAILED})
    assert "●✗–" in render(board)[1]
    randoms = [cell.trial for cell in plan.cells if cell.curve.source == "random"]
    for key, state in zip(
        randoms, (TrialState.DONE, TrialState.RUNNING, TrialState.FAILED), strict=False
    ):
        board.set_state(key, state)
    assert " ".join(render(board)[3].split()) == "random 1/4, 1 running, 1 failed"


def test_a_wide_sweep_fits_on_a_screen() -> None:
    wide = plan_of(sweep_document(seed=list(range(MAX_CHAIN_ROWS + 7)), controls=[]))
    lines = render(Board(wide))
    assert len(lines) == 1 + MAX_CHAIN_ROWS + 1
    assert "7 more chains" in lines[-1]
    last = [cell.trial for cell in wide.cells if cell.curve.source == "imp"][-1]
    assert "✗" in render(Board(wide, {last: TrialState.FAILED}))[1]


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=60)


def items(plan: Plan, count: int) -> list[WorkItem]:
    frontier = Frontier(plan)
    return [frontier.item(key) for key in chain(plan, 0)[:count]]


def test_progress_follows_a_chunk_item_by_item(plan: Plan, console: Console) -> None:
    chunk = items(plan, 3)
    board = Board(plan)
    progress = TerminalProgress(board, console)
    assert progress.eta_s() is None
    progress.on_event(ItemStarted("s", chunk[0]))
    assert [board.state(item.key) for item in chunk] == [
        TrialState.RUNNING,
        TrialState.PENDING,
        TrialState.PENDING,
    ]
    progress.on_event(ItemCommitted(chunk[0], [chunk[0].key], 90.0, "s"))
    progress.on_event(ItemStarted("s", chunk[1]))
    assert [board.state(item.key) for item in chunk] == [
        TrialState.DONE,
        TrialState.RUNNING,
        TrialState.PENDING,
    ]
    assert board.scores == {chunk[0].key: 90.0}
    assert progress.line().startswith("1/9 trials, 1 running, 0 failed, about 0:00 left")
    progress.on_event(ChunkEnded("s", chunk))  # its worker has exited
    assert [board.state(item.key) for item in chunk] == [
        TrialState.DONE,
        TrialState.PENDING,
        TrialState.PENDING,
    ]


def test_the_time_left_follows_the_throughput(
    plan: Plan, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 3 of 9 equal runs, the rest takes twice the elapsed time."""
    now = 0.0
    monkeypatch.setattr(
        "orchestrator.monitor.terminal.time", SimpleNamespace(monotonic=lambda: now)
    )
    progress = TerminalProgress(Board(plan), console)
    now = 50.0  # before a worker has started
    for item in items(plan, 3):
        progress.on_event(ItemStarted("s", item))
        progress.on_event(ItemCommitted(item, [item.key], None, "s"))
    now = 150.0
    assert progress.eta_s() == pytest.approx(200.0)


def test_an_error_is_printed_in_full_and_verbatim(plan: Plan, console: Console) -> None:
    """An error may contain text that looks like markup; it must neither vanish nor raise."""
    (item,) = items(plan, 1)
    item.error = "KeyError: [/data/x] is not in [bold] " + "long " * 20
    board = Board(plan)
    TerminalProgress(board, console).on_event(ItemFailed(item))
    assert board.state(item.key) is TrialState.FAILED
    (line,) = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.strip() == f"failed {item.key[:12]}: {item.error}".strip()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")]
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
