"""The sweep as a table: chains as rows, levels as cells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from orchestrator.plan.graph import DENSE, Curve, Plan, Trial
from orchestrator.store.record import Record

CHAINED = ("imp",)
"""Sources whose cells follow from one another: a row each. The others are leaves, counted."""


MOST_ROWS = 24


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
