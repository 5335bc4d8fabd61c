"""The sweep as one sees it in a terminal: chains as rows, levels as cells, and the time left."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.costs import Cost, work_of
from orchestrator.frontier import Unit
from orchestrator.plan import DENSE, Curve, Plan

CHAINED = ("imp",)
"""Sources whose cells follow from one another: a row each. The others are leaves, counted."""
MOST_ROWS = 24
QUIET_PERIOD_S = 15.0
"""Without a terminal, one line of progress this often."""


class Mark(Enum):
    """A cell's state, and how it is drawn."""

    OPEN = ("·", "dim")
    RUNNING = ("◐", "cyan")
    DONE = ("●", "green")
    FAILED = ("✗", "bold red")


@dataclass(slots=True)
class Board:
    """Marks and scores of a plan's training runs, by trial key."""

    plan: Plan
    marks: dict[str, Mark] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    def mark(self, key: str) -> Mark:
        return self.marks.get(key, Mark.OPEN)

    def counts(self) -> dict[Mark, int]:
        """Training runs by mark; each once, however many cells share it."""
        counts = dict.fromkeys(Mark, 0)
        for trial in self.plan.training_runs():
            counts[self.mark(trial.key)] += 1
        return counts

    def settled(self) -> bool:
        """Whether every training run is done, has failed, or needs a trial that has failed."""
        lost: set[str] = set()
        for trial in self.plan:
            failed = self.mark(trial.key) is Mark.FAILED
            if failed or lost.intersection((*trial.parents, trial.rides)):
                lost.add(trial.key)
        runs = (trial.key for trial in self.plan.training_runs())
        return all(key in lost or self.mark(key) is Mark.DONE for key in runs)

    def summary(self) -> str:
        """`52/52 trials, 0 failed`."""
        counts = self.counts()
        return f"{counts[Mark.DONE]}/{sum(counts.values())} trials, {counts[Mark.FAILED]} failed"

    def table(self) -> Table:
        """One row per chain, and one per source of leaves."""
        rows: dict[Curve, list[str]] = defaultdict(list)
        dense: dict[tuple[str, ...], str] = {}
        for cell in self.plan.cells:
            if cell.curve.source == DENSE:
                dense[_place(cell.curve)] = cell.trial
            else:
                rows[cell.curve].append(cell.trial)
        table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
        for column in ("chain", "seed", "levels", "last score"):
            table.add_column(column, no_wrap=True)
        chains = [curve for curve in rows if curve.source in CHAINED]
        for curve in chains[:MOST_ROWS]:
            start = [dense[_place(curve)]] if _place(curve) in dense else []
            self._chain_row(table, curve, start + rows[curve])
        if len(chains) > MOST_ROWS:
            table.add_row(f"… and {len(chains) - MOST_ROWS} more chains", "", "", "")
        leaves: dict[str, list[str]] = defaultdict(list)
        for curve, keys in rows.items():
            if curve.source not in CHAINED:
                leaves[curve.source] += keys
        for source, keys in leaves.items():
            done = sum(self.mark(key) is Mark.DONE for key in keys)
            table.add_row(source, "", f"{done}/{len(keys)}", "")
        return table

    def _chain_row(self, table: Table, curve: Curve, keys: list[str]) -> None:
        cells = Text()
        for key in keys:
            symbol, style = self.mark(key).value
            cells.append(symbol, style)
        scored = [self.scores[key] for key in keys if key in self.scores]
        last = f"{scored[-1]:.1f}" if scored else ""
        rewind = f"theta_{curve.rewind}"
        name = f"{curve.model} {curve.task} {rewind}"
        table.add_row(name, str(curve.seed), cells, last)


def _place(curve: Curve) -> tuple[str, ...]:
    return (curve.study, curve.model, curve.task, curve.recipe, str(curve.seed))


class Progress:
    """Follows a run (it is the searcher's Observer) and draws it while it is entered."""

    def __init__(self, board: Board, console: Console, cost: Cost = work_of) -> None:
        self._board = board
        self._console = console
        self._begin = time.monotonic()
        self._open_cost = sum(
            cost(trial)
            for trial in board.plan.training_runs()
            if board.mark(trial.key) is not Mark.DONE
        )
        self._done_cost = 0.0
        self._next: dict[str, Unit] = {}
        """What follows each unit in its lane."""
        self._lock = threading.Lock()
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=4, transient=True
        )
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._live.is_started:
            self._live.stop()

    def started(self, lane: list[Unit]) -> None:
        self._next.update({unit.head: follower for unit, follower in pairwise(lane)})
        self._set(lane[0], Mark.RUNNING)

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        self._set(unit, Mark.DONE)
        if score is not None:
            self._board.scores[unit.head] = score
        self._done_cost += unit.cost
        if unit.head in self._next:
            self._set(self._next.pop(unit.head), Mark.RUNNING)

    def failed(self, unit: Unit) -> None:
        self._set(unit, Mark.FAILED)
        error = escape(unit.error)
        self._console.print(f"[red]failed[/] {unit.head[:12]}: {error}", soft_wrap=True)

    def _set(self, unit: Unit, mark: Mark) -> None:
        with self._lock:
            self._board.marks[unit.head] = mark

    def eta_s(self) -> float | None:
        """Seconds left at the pace so far; None before the first run has ended."""
        if not self._done_cost:
            return None
        elapsed = time.monotonic() - self._begin
        return max(0.0, (self._open_cost - self._done_cost) * elapsed / self._done_cost)

    def line(self) -> str:
        """`12/52 trials, 2 running, 0 failed, about 3:05 left`."""
        with self._lock:
            counts = self._board.counts()
        eta = self.eta_s()
        left = "time left unknown yet" if eta is None else f"about {clock(eta)} left"
        return (
            f"{counts[Mark.DONE]}/{sum(counts.values())} trials, {counts[Mark.RUNNING]} running,"
            f" {counts[Mark.FAILED]} failed, {left}"
        )

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


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
