"""The sweep as one sees it in a terminal: chains as rows, levels as cells, and the time left."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.plan.graph import DENSE, Curve, Plan, Trial
from orchestrator.plan.work import Cost, work_of
from orchestrator.schedule.frontier import Unit
from orchestrator.store.record import Record

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
    BLOCKED = ("–", "red")
    """It needs what failed."""


class Board:
    """Marks and scores of a plan's training runs, by trial key."""

    def __init__(
        self,
        plan: Plan,
        marks: Mapping[str, Mark] = MappingProxyType({}),
        scores: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.plan = plan
        self.scores = dict(scores)
        self._marks = dict(marks)
        self._runs = {trial.key for trial in plan.training_runs()}
        self._counts = dict.fromkeys(Mark, 0)
        for key in self._runs:
            self._counts[self.mark(key)] += 1
        self._chains, self._leaves = _rows(plan)
        if Mark.FAILED in marks.values():
            self._block()

    def mark(self, key: str) -> Mark:
        return self._marks.get(key, Mark.OPEN)

    def set(self, key: str, mark: Mark) -> None:
        """What fails blocks all that needs it."""
        self._count(key, mark)
        if mark is Mark.FAILED:
            self._block()

    def counts(self) -> dict[Mark, int]:
        """Training runs by mark; each once, however many cells share it."""
        return dict(self._counts)

    def settled(self) -> bool:
        """Whether every training run is done, has failed, or needs a trial that has failed."""
        return not self._counts[Mark.OPEN] and not self._counts[Mark.RUNNING]

    def open(self) -> Iterator[Trial]:
        """The training runs that are still to be done, those at work included."""
        for key in self._runs:
            if self.mark(key) in (Mark.OPEN, Mark.RUNNING):
                yield self.plan.trials[key]

    def summary(self) -> str:
        """`50/52 trials, 1 running, 0 failed`; blocked ones are named if there are any."""
        counts = self._counts
        said = [f"{counts[Mark.DONE]}/{len(self._runs)} trials"]
        if not self.settled():
            said.append(f"{counts[Mark.RUNNING]} running")
        said.append(f"{counts[Mark.FAILED]} failed")
        if counts[Mark.BLOCKED]:
            said.append(f"{counts[Mark.BLOCKED]} blocked")
        return ", ".join(said)

    def table(self) -> Table:
        """One row per chain, and one per source of leaves. Of more chains than a screen holds,
        those where something runs or fails come first."""
        table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
        for column in ("chain", "seed", "levels", "last score"):
            table.add_column(column, no_wrap=True)
        chains = list(self._chains)
        if len(chains) > MOST_ROWS:
            chains.sort(key=lambda chain: not self._moves(chain[1]))
        for curve, keys in chains[:MOST_ROWS]:
            self._chain_row(table, curve, keys)
        if len(chains) > MOST_ROWS:
            table.add_row(f"… and {len(chains) - MOST_ROWS} more chains", "", "", "")
        for source, keys in self._leaves.items():
            found = Counter(map(self._marks.get, keys))
            said = f"{found[Mark.DONE]}/{len(keys)}"
            said += f", {found[Mark.RUNNING]} running" if found[Mark.RUNNING] else ""
            said += f", {found[Mark.FAILED]} failed" if found[Mark.FAILED] else ""
            table.add_row(source, "", said, "")
        return table

    def _moves(self, keys: list[str]) -> bool:
        return any(self.mark(key) in (Mark.RUNNING, Mark.FAILED) for key in keys)

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

    def _count(self, key: str, mark: Mark) -> None:
        if key in self._runs:
            self._counts[self.mark(key)] -= 1
            self._counts[mark] += 1
        self._marks[key] = mark

    def _block(self) -> None:
        """One pass, for failures are few: parents stand before their children."""
        lost: set[str] = set()
        for trial in self.plan:
            mark = self.mark(trial.key)
            if mark is Mark.FAILED:
                lost.add(trial.key)
            elif mark is not Mark.DONE and lost.intersection((*trial.parents, trial.rides)):
                lost.add(trial.key)
                self._count(trial.key, Mark.BLOCKED)


def board_of(
    plan: Plan,
    records: Mapping[str, Record],
    failed: Iterable[str] = (),
    running: Iterable[str] = (),
) -> Board:
    """How a sweep stands by what its store holds; who is at work counts more than a past failure,
    and a record more than either."""
    marks = dict.fromkeys(failed, Mark.FAILED) | dict.fromkeys(running, Mark.RUNNING)
    scores = {key: r.scores["score"] for key, r in records.items() if "score" in r.scores}
    return Board(plan, marks | dict.fromkeys(records, Mark.DONE), scores)


def _rows(plan: Plan) -> tuple[list[tuple[Curve, list[str]]], dict[str, list[str]]]:
    """The runs of each chain, its dense one first, and those of each source of leaves."""
    rows: dict[Curve, list[str]] = defaultdict(list)
    dense: dict[tuple[str, ...], str] = {}
    for cell in plan.cells:
        if cell.curve.source == DENSE:
            dense[_place(cell.curve)] = cell.trial
        else:
            rows[cell.curve].append(cell.trial)
    chains: list[tuple[Curve, list[str]]] = []
    leaves: dict[str, list[str]] = defaultdict(list)
    for curve, keys in rows.items():
        if curve.source in CHAINED:
            start = [dense[_place(curve)]] if _place(curve) in dense else []
            chains.append((curve, start + keys))
        else:
            leaves[curve.source] += keys
    return chains, leaves


def _place(curve: Curve) -> tuple[str, ...]:
    return (curve.study, curve.model, curve.task, curve.recipe, str(curve.seed))


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
