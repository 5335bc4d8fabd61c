"""A sweep as a table: one row per chain, one cell per level."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from orchestrator.plan.graph import DENSE, Curve, Plan, Trial
from orchestrator.sources.names import find_source
from orchestrator.store.record import Record

MAX_CHAIN_ROWS = 24


class TrialState(Enum):
    """State of a training run, with its symbol and color in the table."""

    PENDING = ("·", "dim")
    RUNNING = ("◐", "cyan")
    DONE = ("●", "green")
    FAILED = ("✗", "bold red")
    BLOCKED = ("–", "red")
    """Depends on a trial that has failed."""
    SKIPPED = ("○", "dim")
    """Not needed for what the sweep's strategy wants so far."""


class Board:
    """States and scores of a plan's training runs, by trial key."""

    def __init__(
        self,
        plan: Plan,
        states: Mapping[str, TrialState] = MappingProxyType({}),
        scores: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.plan = plan
        self.scores = dict(scores)
        self._states = dict(states)
        self._runs = {trial.key for trial in plan.training_runs()}
        self._counts = dict.fromkeys(TrialState, 0)
        for key in self._runs:
            self._counts[self.state(key)] += 1
        self._chains, self._independent = _rows(plan)
        if TrialState.FAILED in states.values():
            self._block_descendants()

    def state(self, key: str) -> TrialState:
        return self._states.get(key, TrialState.PENDING)

    def set_state(self, key: str, state: TrialState) -> None:
        """Set the state of a trial. A failure blocks every trial that depends on it."""
        self._update(key, state)
        if state is TrialState.FAILED:
            self._block_descendants()

    def counts(self) -> dict[TrialState, int]:
        """Number of training runs by state. A run that several cells share counts once."""
        return dict(self._counts)

    def settled(self) -> bool:
        """Whether every training run is done, failed, blocked or skipped."""
        return not self._counts[TrialState.PENDING] and not self._counts[TrialState.RUNNING]

    def unfinished(self) -> Iterator[Trial]:
        """Yield the training runs that are pending or running."""
        for key in self._runs:
            if self.state(key) in (TrialState.PENDING, TrialState.RUNNING):
                yield self.plan.trials[key]

    def summary(self) -> str:
        """`50/52 trials, 1 running, 0 failed`; with the number of blocked and of skipped ones if
        there are any."""
        counts = self._counts
        parts = [f"{counts[TrialState.DONE]}/{len(self._runs)} trials"]
        if not self.settled():
            parts.append(f"{counts[TrialState.RUNNING]} running")
        parts.append(f"{counts[TrialState.FAILED]} failed")
        if counts[TrialState.BLOCKED]:
            parts.append(f"{counts[TrialState.BLOCKED]} blocked")
        if counts[TrialState.SKIPPED]:
            parts.append(f"{counts[TrialState.SKIPPED]} skipped")
        return ", ".join(parts)

    def table(self) -> Table:
        """One row per chain, and one per source of independent tickets.

        At most `MAX_CHAIN_ROWS` chains are shown. If there are more, chains with running or failed
        trials come first.
        """
        table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
        for column in ("chain", "seed", "levels", "last score"):
            table.add_column(column, no_wrap=True)
        chains = list(self._chains)
        if len(chains) > MAX_CHAIN_ROWS:
            chains.sort(key=lambda chain: not self._is_active(chain[1]))
        several = len({curve.source for curve, _ in chains}) > 1
        for curve, keys in chains[:MAX_CHAIN_ROWS]:
            source = f" {find_source(curve.source).label}" if several else ""
            self._add_chain_row(table, curve, keys, source)
        if len(chains) > MAX_CHAIN_ROWS:
            table.add_row(f"… and {len(chains) - MAX_CHAIN_ROWS} more chains", "", "", "")
        for source, keys in self._independent.items():
            counts = Counter(map(self._states.get, keys))
            levels = f"{counts[TrialState.DONE]}/{len(keys)}"
            if counts[TrialState.RUNNING]:
                levels += f", {counts[TrialState.RUNNING]} running"
            if counts[TrialState.FAILED]:
                levels += f", {counts[TrialState.FAILED]} failed"
            if counts[TrialState.SKIPPED]:
                levels += f", {counts[TrialState.SKIPPED]} skipped"
            table.add_row(source, "", levels, "")
        return table

    def _is_active(self, keys: list[str]) -> bool:
        return any(self.state(key) in (TrialState.RUNNING, TrialState.FAILED) for key in keys)

    def _add_chain_row(self, table: Table, curve: Curve, keys: list[str], source: str) -> None:
        cells = Text()
        for key in keys:
            symbol, style = self.state(key).value
            cells.append(symbol, style)
        scores = [self.scores[key] for key in keys if key in self.scores]
        last_score = f"{scores[-1]:.1f}" if scores else ""
        name = f"{curve.model} {curve.task} theta_{curve.rewind}{source}"
        table.add_row(name, str(curve.seed), cells, last_score)

    def _update(self, key: str, state: TrialState) -> None:
        if key in self._runs:
            self._counts[self.state(key)] -= 1
            self._counts[state] += 1
        self._states[key] = state

    def _block_descendants(self) -> None:
        """One pass over the plan is enough, because parents precede their children."""
        lost: set[str] = set()
        for trial in self.plan:
            state = self.state(trial.key)
            if state is TrialState.FAILED:
                lost.add(trial.key)
            elif state not in (TrialState.DONE, TrialState.SKIPPED) and lost.intersection(
                (*trial.parents, trial.produced_by)
            ):
                lost.add(trial.key)
                self._update(trial.key, TrialState.BLOCKED)


def board_from_records(
    plan: Plan,
    records: Mapping[str, Record],
    failed: Iterable[str] = (),
    running: Iterable[str] = (),
    skipped: Iterable[str] = (),
) -> Board:
    """Return the board of a sweep whose store holds `records`.

    A record takes precedence over `running`, `running` over `skipped`, and that over an earlier
    failure, which no run repeats while the trial is not wanted.
    """
    states = dict.fromkeys(failed, TrialState.FAILED)
    states |= dict.fromkeys(skipped, TrialState.SKIPPED)
    states |= dict.fromkeys(running, TrialState.RUNNING)
    scores = {key: r.scores["score"] for key, r in records.items() if "score" in r.scores}
    return Board(plan, states | dict.fromkeys(records, TrialState.DONE), scores)


def _rows(plan: Plan) -> tuple[list[tuple[Curve, list[str]]], dict[str, list[str]]]:
    """Runs of each chain, the dense one first, and runs of each source of independent tickets.

    The levels of a chained source build on one another, and get a row per chain. Those of the
    others are only counted.
    """
    rows: dict[Curve, list[str]] = defaultdict(list)
    dense: dict[tuple[str, ...], str] = {}
    for cell in plan.cells:
        if cell.curve.source == DENSE:
            dense[_dense_run_id(cell.curve)] = cell.trial
        else:
            rows[cell.curve].append(cell.trial)
    chains: list[tuple[Curve, list[str]]] = []
    independent: dict[str, list[str]] = defaultdict(list)
    for curve, keys in rows.items():
        if find_source(curve.source).entry.chained:
            start = [dense[_dense_run_id(curve)]] if _dense_run_id(curve) in dense else []
            chains.append((curve, start + keys))
        else:
            independent[curve.source] += keys
    return chains, independent


def _dense_run_id(curve: Curve) -> tuple[str, ...]:
    """Identifies the dense run that a curve starts from."""
    return (curve.study, curve.model, curve.task, curve.recipe, str(curve.seed))
