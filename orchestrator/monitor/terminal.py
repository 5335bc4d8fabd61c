"""The sweep as one sees it in a terminal: chains as rows, levels as cells, and the time left."""

from __future__ import annotations

import threading
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from orchestrator.monitor.board import Board, Mark
from orchestrator.plan.work import Cost, work_of
from orchestrator.schedule.frontier import Unit

QUIET_PERIOD_S = 15.0
"""Without a terminal, one line of progress this often."""


class Progress:
    """Follows a run (it is the searcher's Observer) and draws it while it is entered."""

    def __init__(self, board: Board, console: Console, cost: Cost = work_of) -> None:
        self._board = board
        self._console = console
        self._cost = cost
        self._begin: float | None = None
        """When the first trial began: what Ray takes to start is no part of the pace."""
        self._open_cost = sum(map(cost, board.open()))
        self._done_cost = 0.0
        self._lock = threading.Lock()
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=2, transient=True
        )
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._ticker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._live.is_started:
            self._live.stop()

    def started(self, lane: list[Unit]) -> None: ...

    def begun(self, unit: Unit) -> None:
        if self._begin is None:
            self._begin = time.monotonic()
        self._set(unit, Mark.RUNNING)

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        self._set(unit, Mark.DONE)
        if score is not None:
            self._board.scores[unit.head] = score
        self._done_cost += unit.cost

    def failed(self, unit: Unit) -> None:
        self._set(unit, Mark.FAILED)
        with self._lock:
            self._open_cost = self._done_cost + sum(map(self._cost, self._board.open()))
        error = escape(unit.error)
        self._console.print(f"[red]failed[/] {unit.head[:12]}: {error}", soft_wrap=True)

    def ended(self, lane: list[Unit]) -> None:
        for unit in lane:
            if self._board.mark(unit.head) is Mark.RUNNING:  # put back, to be done later
                self._set(unit, Mark.OPEN)

    def _set(self, unit: Unit, mark: Mark) -> None:
        with self._lock:
            self._board.set(unit.head, mark)

    def eta_s(self) -> float | None:
        """Seconds left at the pace so far; None before the first run has ended."""
        if self._begin is None:
            return None
        elapsed = time.monotonic() - self._begin
        return time_left_s(self._open_cost - self._done_cost, self._done_cost, elapsed)

    def line(self) -> str:
        """`12/52 trials, 2 running, 0 failed, about 3:05 left`."""
        with self._lock:
            summary, settled = self._board.summary(), self._board.settled()
        return summary if settled else f"{summary}, {words_left(self.eta_s())}"

    def _render(self) -> RenderableType:
        with self._lock:
            counts, table = self._board.counts(), self._board.table()
        foot = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(1, sum(counts.values())), completed=counts[Mark.DONE], width=30)
        foot.add_row(bar, self.line())
        return Group(table, foot)

    def _tick(self) -> None:
        while not self._stop.wait(QUIET_PERIOD_S):
            self._console.print(self.line(), highlight=False)


def time_left_s(cost: float, done: float, seconds: float) -> float | None:
    """Seconds that `cost` will take if `done` took `seconds`; None if nothing was done yet."""
    return max(0.0, cost) * seconds / done if done else None


def words_left(seconds: float | None) -> str:
    """`about 3:05 left`."""
    return "time left unknown yet" if seconds is None else f"about {clock(seconds)} left"


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
