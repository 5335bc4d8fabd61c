"""How a sweep stands, told from the store alone: whoever runs it, and wherever."""

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

from orchestrator.monitor.board import Board, Mark, board_of
from orchestrator.monitor.terminal import time_left_s, words_left
from orchestrator.plan import work as costs
from orchestrator.plan.graph import Plan, describe
from orchestrator.schedule.forecast import forecast
from orchestrator.schedule.frontier import Frontier
from orchestrator.store.leases import Claims, Holder
from orchestrator.store.record import Record
from orchestrator.store.tickets import TicketStore

WATCH_PERIOD_S = 2.0
CALM = 3
"""Looks in a row at which nothing ran, until what is left is held for failed: between two attempts
at a trial nobody is at it."""
RECENT = 50
"""Runs whose pace tells the time left."""
IDLE_S = 60.0
"""Between the end of one run and the start of the next; after more, nothing ran in between."""
MOST_FAILURES = 8
MOST_HOSTS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What one look at the store said of a plan's trials, by key."""

    records: Mapping[str, Record] = field(default_factory=dict)
    running: Mapping[str, Holder] = field(default_factory=dict)
    """Who is at work, by the head of the unit; replays of committed runs included."""
    failures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The last failure of each trial that is neither committed nor at work."""

    def board(self, plan: Plan) -> Board:
        return board_of(plan, self.records, self.failures, self.running)


def look(plan: Plan, store: TicketStore) -> Status:
    """Raises a StoreError if the store cannot be read."""
    claims = Claims(store.objects, run="").alive()  # first: what ends meanwhile counts as done
    running = {key: holder for key, holder in claims.items() if key in plan.trials}
    noted = store.failures(plan.trials)
    records = store.records(plan.trials)
    failures = {
        key: noted[key]
        for key in plan.trials  # in the plan's order: what the others need comes first
        if key in noted and key not in records and key not in running
    }
    return Status(records=records, running=running, failures=failures)


def eta_s(board: Board, status: Status, now: datetime) -> float | None:
    """Seconds until the open runs of `board` are done; None if nobody is at work, or no run of the
    plan has ended yet.

    At the pace of the last commits, but not less than if the trials at work took what they were
    measured to take and nothing else (see `forecast`): at the end of a sweep a few long chains are
    left, and a pace knows nothing of them.
    """
    plan, records = board.plan, status.records
    cost = costs.seconds(plan, records)
    if cost is None or not status.running:
        return None
    recent, since = _recent(r for r in records.values() if r.costs.get("steps"))
    done = sum(cost(plan.trials[record.key]) for record in recent)
    elapsed = max(now.timestamp(), _ended(recent[0])) - since
    at_pace = time_left_s(sum(map(cost, board.open())), done, elapsed)
    closed = [trial.key for trial in plan if board.mark(trial.key) in (Mark.FAILED, Mark.BLOCKED)]
    begun = {
        key: holder.held_s
        for key, holder in status.running.items()
        if board.mark(key) is Mark.RUNNING
    }
    rest = Frontier(plan, [*records, *closed], cost=cost)
    at_best = forecast(rest, max(1, len(begun)), begun).wall_s
    return max(at_best, at_pace or 0.0)


def _recent(ended: Iterable[Record]) -> tuple[list[Record], float]:
    """The last runs, the newest first, as far back as some run was always going on; and when the
    first of them began, in seconds since 1970."""
    recent: list[Record] = []
    since = float("inf")
    for record in sorted(ended, key=_ended, reverse=True)[:RECENT]:
        if recent and _ended(record) < since - IDLE_S:
            break
        recent.append(record)
        since = min(since, _ended(record) - record.costs["seconds"])
    return recent, since


def _ended(record: Record) -> float:
    return datetime.fromisoformat(record.created).timestamp()


def failures(store: TicketStore, plan: Plan) -> dict[str, str]:
    """The last error of each trial of the plan that failed and was not committed since."""
    noted = store.failures(plan.trials)
    committed = store.keys() if noted else set()
    return {key: note["error"] for key, note in noted.items() if key not in committed}


def show(plan: Plan, status: Status, sweep: str) -> RenderableType:
    """Chains as rows, levels as cells; who is at work; what failed, and how to find out why."""
    board = status.board(plan)
    return Group(board.table(), Text(), *_lines(board, status, sweep))


def _lines(board: Board, status: Status, sweep: str) -> Iterator[Text]:
    if board.settled():
        yield Text(board.summary())
    elif status.running:
        left = words_left(eta_s(board, status, datetime.now(UTC)))
        yield Text(f"{board.summary()}, {left}")
        yield Text(f"at work: {_hosts(status.running.values())}", "dim")
    else:
        yield Text(f"{board.summary()}; nobody is at work: sweepstakes run {sweep}")
    for key, note in list(status.failures.items())[:MOST_FAILURES]:
        what = describe(board.plan.trials[key])
        yield Text.assemble(
            ("failed ", "red"), f"{key[:12]} {what}{_where(note)}: {_first_line(note)}"
        )
    more = len(status.failures) - MOST_FAILURES
    if more > 0:
        yield Text(f"and {more:,} more", "dim")
    for key in list(status.failures)[:1]:
        yield Text(f"see why: {logs_command(key, sweep)}", "dim")


def logs_command(key: str, sweep: str) -> str:
    """What prints the log of a trial that a run makes by itself."""
    return f"sweepstakes logs {key[:12]} --sweep {sweep}"


def _hosts(holders: Iterable[Holder]) -> str:
    """`8 on node-a, 4 on node-b`."""
    found = Counter(holder.host for holder in holders).most_common()
    said = [f"{count} on {host}" for host, count in found[:MOST_HOSTS]]
    if len(found) > MOST_HOSTS:
        rest = sum(count for _, count in found[MOST_HOSTS:])
        said.append(f"{rest} on {len(found) - MOST_HOSTS} more")
    return ", ".join(said)


def _where(note: Mapping[str, Any]) -> str:
    """` (attempt 3, node-a)`, as far as the note knows."""
    said = [f"attempt {note['attempts']}"] if "attempts" in note else []
    said += [str(note["host"])] if "host" in note else []
    return f" ({', '.join(said)})" if said else ""


def _first_line(note: Mapping[str, Any]) -> str:
    return next(iter(str(note["error"]).splitlines()), "")


def watch(plan: Plan, store: TicketStore, sweep: str, console: Console) -> None:
    """Look every few seconds, until nothing is left that could still be done."""
    status = look(plan, store)
    calm = 0 if status.running else CALM
    with Live(show(plan, status, sweep), console=console, auto_refresh=False) as live:
        while not status.board(plan).settled() or (calm < CALM and status.failures):
            time.sleep(WATCH_PERIOD_S)
            status = look(plan, store)
            calm = 0 if status.running else calm + 1
            live.update(show(plan, status, sweep), refresh=True)
