"""State of a sweep, read from the store alone: it works for any run, from any machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.monitor.board import Board, TrialState, board_from_records
from orchestrator.monitor.terminal import format_time_left, time_left_s
from orchestrator.plan import work
from orchestrator.plan.graph import Plan, describe_trial
from orchestrator.schedule.forecast import forecast
from orchestrator.schedule.frontier import Frontier
from orchestrator.schedule.strategy import ALL, Strategy, scores_of, skipped_trials
from orchestrator.store.leases import LeaseHolder, Leases
from orchestrator.store.record import Record
from orchestrator.store.tickets import TrialStore

WATCH_PERIOD_S = 2.0
MAX_IDLE_POLLS = 3
"""Polls in a row without a running trial after which failed trials count as final: between two
attempts at a trial, no worker holds its lease."""
MAX_RECENT_RUNS = 50
"""Runs whose throughput the time left is computed from."""
MAX_GAP_S = 60.0
"""Longest time from the end of one run to the start of the next; a longer gap means that the sweep
was not running in between."""
MAX_FAILURE_LINES = 8
MAX_HOSTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The store's contents for a plan's trials at one time, by key."""

    records: Mapping[str, Record] = field(default_factory=dict)
    running: Mapping[str, LeaseHolder] = field(default_factory=dict)
    """Holders of active leases by key of the work item, including replays of committed runs."""
    failures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The last failure of each trial that is neither committed nor running."""
    skipped: frozenset[str] = frozenset()
    """Trials that the strategy does not want with the results so far."""

    def board(self, plan: Plan) -> Board:
        return board_from_records(plan, self.records, self.failures, self.running, self.skipped)


def read_status(plan: Plan, store: TrialStore, strategy: Strategy = ALL) -> Status:
    """Read the status of a plan. Raises a StoreError if the store cannot be read."""
    # Leases first: a trial that ends meanwhile then counts as done.
    leases = Leases(store.objects, run="").active()
    running = {key: holder for key, holder in leases.items() if key in plan.trials}
    notes = store.failures(plan.trials)
    records = store.records(plan.trials)
    failures = {
        key: notes[key]
        for key in plan.trials  # in the plan's order, so parents come first
        if key in notes and key not in records and key not in running
    }
    skipped = skipped_trials(plan, records, strategy, scores_of(records))
    return Status(records=records, running=running, failures=failures, skipped=skipped)


def eta_s(board: Board, status: Status, now: datetime) -> float | None:
    """Seconds until the unfinished runs of `board` are done.

    None if no worker is active, or if no run of the plan has ended yet.

    The estimate is based on the throughput of the last commits. It is at least the time that the
    remaining runs need at their measured durations on the active workers (see `forecast`): at the
    end of a sweep a few long chains are left, which throughput does not account for.
    """
    plan, records = board.plan, status.records
    cost = work.trial_seconds(plan, records)
    if cost is None or not status.running:
        return None
    recent, since = _recent(r for r in records.values() if r.costs.get("steps"))
    done = sum(cost(plan.trials[record.key]) for record in recent)
    elapsed = max(now.timestamp(), _ended_at(recent[0])) - since
    by_throughput = time_left_s(sum(map(cost, board.unfinished())), done, elapsed)
    closed_states = (TrialState.FAILED, TrialState.BLOCKED, TrialState.SKIPPED)
    closed = [trial.key for trial in plan if board.state(trial.key) in closed_states]
    elapsed_by_key = {
        key: holder.lease_age_s
        for key, holder in status.running.items()
        if board.state(key) is TrialState.RUNNING
    }
    frontier = Frontier(plan, [*records, *closed], cost=cost)
    by_forecast = forecast(frontier, max(1, len(elapsed_by_key)), elapsed_by_key).wall_s
    return max(by_forecast, by_throughput or 0.0)


def _recent(ended: Iterable[Record]) -> tuple[list[Record], float]:
    """The last runs of the current period of activity, newest first, and its start.

    The start is that of the first of these runs, in seconds since 1970.
    """
    recent: list[Record] = []
    since = float("inf")
    for record in sorted(ended, key=_ended_at, reverse=True)[:MAX_RECENT_RUNS]:
        if recent and _ended_at(record) < since - MAX_GAP_S:
            break
        recent.append(record)
        since = min(since, _ended_at(record) - record.costs["seconds"])
    return recent, since


def _ended_at(record: Record) -> float:
    return datetime.fromisoformat(record.created_at).timestamp()


def last_errors(store: TrialStore, plan: Plan) -> dict[str, str]:
    """The last error of each trial of the plan that failed and was not committed since."""
    notes = store.failures(plan.trials)
    committed = store.keys() if notes else set()
    return {key: note["error"] for key, note in notes.items() if key not in committed}


def render_status(plan: Plan, status: Status, sweep: str) -> RenderableType:
    """Render the table of chains, the active workers, and the failures with their log command."""
    board = status.board(plan)
    return Group(board.table(), Text(), *_lines(board, status, sweep))


def _lines(board: Board, status: Status, sweep: str) -> Iterator[Text]:
    if board.settled():
        yield Text(board.summary())
    elif status.running:
        time_left = format_time_left(eta_s(board, status, datetime.now(UTC)))
        yield Text(f"{board.summary()}, {time_left}")
        yield Text(f"workers: {_hosts(status.running.values())}", "dim")
    else:
        yield Text(f"{board.summary()}; no worker is active, resume with: sweepstakes run {sweep}")
    failures = {key: note for key, note in status.failures.items() if key not in status.skipped}
    for key, note in list(failures.items())[:MAX_FAILURE_LINES]:
        trial = describe_trial(board.plan.trials[key])
        yield Text.assemble(
            ("failed ", "red"), f"{key[:12]} {trial}{_attempt(note)}: {_first_line(note)}"
        )
    more = len(failures) - MAX_FAILURE_LINES
    if more > 0:
        yield Text(f"and {more:,} more", "dim")
    for key in list(failures)[:1]:
        yield Text(f"details: {logs_command(key, sweep)}", "dim")


def logs_command(key: str, sweep: str) -> str:
    """The command that prints the log of `key`, which must not be a by-product of a run."""
    return f"sweepstakes logs {key[:12]} --sweep {sweep}"


def _hosts(holders: Iterable[LeaseHolder]) -> str:
    """`8 on node-a, 4 on node-b`."""
    counts = Counter(holder.host for holder in holders).most_common()
    parts = [f"{count} on {host}" for host, count in counts[:MAX_HOSTS]]
    if len(counts) > MAX_HOSTS:
        rest = sum(count for _, count in counts[MAX_HOSTS:])
        parts.append(f"{rest} on {len(counts) - MAX_HOSTS} more")
    return ", ".join(parts)


def _attempt(note: Mapping[str, Any]) -> str:
    """` (attempt 3, node-a)`, from the fields that the note has."""
    parts = [f"attempt {note['attempts']}"] if "attempts" in note else []
    parts += [str(note["host"])] if "host" in note else []
    return f" ({', '.join(parts)})" if parts else ""


def _first_line(note: Mapping[str, Any]) -> str:
    return next(iter(str(note["error"]).splitlines()), "")


def watch_status(
    plan: Plan, store: TrialStore, sweep: str, console: Console, strategy: Strategy = ALL
) -> None:
    """Refresh the status every few seconds until no trial is left that could still run."""
    status = read_status(plan, store, strategy)
    idle_polls = 0 if status.running else MAX_IDLE_POLLS
    with Live(render_status(plan, status, sweep), console=console, auto_refresh=False) as live:
        while not status.board(plan).settled() or (idle_polls < MAX_IDLE_POLLS and status.failures):
            time.sleep(WATCH_PERIOD_S)
            status = read_status(plan, store, strategy)
            idle_polls = 0 if status.running else idle_polls + 1
            live.update(render_status(plan, status, sweep), refresh=True)
