"""Progress of a run in the terminal: one row per chain, one cell per level, and the time left."""

from __future__ import annotations

import threading
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from orchestrator.monitor.board import Board, TrialState
from orchestrator.plan.work import CostFunction, work_of
from orchestrator.schedule.frontier import WorkItem, WorkState
from orchestrator.schedule.run_events import (
    ChunkEnded,
    ItemCommitted,
    ItemFailed,
    ItemStarted,
    ItemsWanted,
    RunEvent,
)

LINE_PERIOD_S = 15.0
"""Interval of the progress lines that are printed if the output is not a terminal."""


class TerminalProgress:
    """An `Observer` that displays the progress of a run, within its `with` block."""

    def __init__(self, board: Board, console: Console, cost: CostFunction = work_of) -> None:
        self._board = board
        self._console = console
        self._cost = cost
        self._started_at: float | None = None
        """Start of the first trial: Ray's start-up time does not count for the throughput."""
        self._total_cost = sum(map(cost, board.unfinished()))
        self._done_cost = 0.0
        self._lock = threading.Lock()
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=2, transient=True
        )
        self._stop = threading.Event()
        self._line_printer = threading.Thread(target=self._print_lines, daemon=True)

    def __enter__(self) -> TerminalProgress:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._line_printer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._live.is_started:
            self._live.stop()

    def on_event(self, event: RunEvent) -> None:
        match event:
            case ItemStarted(item=item):
                if self._started_at is None:
                    self._started_at = time.monotonic()
                self._set_state(item, TrialState.RUNNING)
            case ItemCommitted(item=item, score=score):
                self._set_state(item, TrialState.DONE)
                if score is not None:
                    self._board.scores[item.key] = score
                self._done_cost += item.cost
            case ItemFailed(item=item):
                self._on_failed(item)
            case ItemsWanted(items=items):
                for item in items:
                    blocked = item.state is WorkState.BLOCKED
                    self._set_state(item, TrialState.BLOCKED if blocked else TrialState.PENDING)
                    self._total_cost += 0.0 if blocked else item.cost
            case ChunkEnded(items=items):
                for item in items:
                    if self._board.state(item.key) is TrialState.RUNNING:  # requeued
                        self._set_state(item, TrialState.PENDING)

    def _on_failed(self, item: WorkItem) -> None:
        self._set_state(item, TrialState.FAILED)
        with self._lock:
            self._total_cost = self._done_cost + sum(map(self._cost, self._board.unfinished()))
        error = escape(item.error)
        self._console.print(f"[red]failed[/] {item.key[:12]}: {error}", soft_wrap=True)

    def _set_state(self, item: WorkItem, state: TrialState) -> None:
        with self._lock:
            self._board.set_state(item.key, state)

    def eta_s(self) -> float | None:
        """Seconds left at the throughput so far; None until the first run has ended."""
        if self._started_at is None:
            return None
        elapsed = time.monotonic() - self._started_at
        return time_left_s(self._total_cost - self._done_cost, self._done_cost, elapsed)

    def line(self) -> str:
        """`12/52 trials, 2 running, 0 failed, about 3:05 left`."""
        with self._lock:
            summary, settled = self._board.summary(), self._board.settled()
        return summary if settled else f"{summary}, {format_time_left(self.eta_s())}"

    def _render(self) -> RenderableType:
        with self._lock:
            counts, table = self._board.counts(), self._board.table()
        footer = Table.grid(padding=(0, 2))
        done = counts[TrialState.DONE]
        bar = ProgressBar(total=max(1, sum(counts.values())), completed=done, width=30)
        footer.add_row(bar, self.line())
        return Group(table, footer)

    def _print_lines(self) -> None:
        while not self._stop.wait(LINE_PERIOD_S):
            self._console.print(self.line(), highlight=False)


def time_left_s(cost: float, done: float, seconds: float) -> float | None:
    """Seconds that `cost` will take if `done` took `seconds`; None if nothing is done yet."""
    return max(0.0, cost) * seconds / done if done else None


def format_time_left(seconds: float | None) -> str:
    """`about 3:05 left`."""
    return (
        "time left not known yet" if seconds is None else f"about {format_duration(seconds)} left"
    )


def format_duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
