"""What a command does once the sweep is planned and the store is open."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator import costs
from orchestrator import report as reports
from orchestrator.errors import ConfigError, InputError
from orchestrator.frontier import Unit
from orchestrator.plan import Plan
from orchestrator.preview import preview
from orchestrator.progress import Board, Mark, Progress, clock
from orchestrator.store.record import Record
from orchestrator.work import Context, start_worker
from orchestrator.workspace import Connected, Planned

if TYPE_CHECKING:
    from orchestrator.driver import Summary
    from orchestrator.store.tickets import TicketStore
    from orchestrator.tracking import Projector

log = logging.getLogger(__name__)

MIRROR_PATIENCE_S = 120.0
"""How long the end of a run waits for MLflow to catch up."""
WATCH_PERIOD_S = 2.0


def run_sweep(planned: Planned, found: Connected, console: Console) -> Summary:
    """Run what is missing under a live display, and mirror it to MLflow as it comes."""
    from orchestrator import driver

    plan, placement = planned.plan, planned.sweep.placement
    records = found.store.records(plan.trials)
    shown = preview(plan, records, planned.pools(), placement.gpus)
    console.print(
        f"[bold]{plan.name}[/]  {shown.trials} trials for {shown.cells} scores"
        f" (naively {shown.naive_trials}), {shown.to_run} to run"
    )
    context = Context(
        sweep=plan.name,
        store=found.address,
        locations=planned.inputs.locations(),
        cache=str(planned.sweep.placement.cache or planned.home / "cache"),
        tracking=found.tracking,
        threads=placement.cpus,
        device="cuda" if placement.gpus else "cpu",
        gpus=placement.gpus,
        checkpoint_every_s=placement.checkpoint_every_s,
    )
    with Mirror(plan, found, records) as mirror:
        board = _board(plan, records, ())
        cost = costs.seconds(plan, records) or costs.work_of
        with Progress(board, console, cost) as progress:
            start = partial(start_worker, context)
            observer = _Both(progress, mirror)
            summary = driver.run(plan, set(records), start, placement, observer, cost)
        console.print(f"{board.summary()} in {clock(summary.seconds)}")
    return summary


def _board(plan: Plan, records: dict[str, Record], failed: Iterable[str]) -> Board:
    marks = dict.fromkeys(failed, Mark.FAILED) | dict.fromkeys(records, Mark.DONE)
    scores = {key: r.scores["score"] for key, r in records.items() if "score" in r.scores}
    return Board(plan, marks, scores)


class Mirror:
    """Hands committed trials to MLflow, off the driver's thread; does nothing without MLflow."""

    def __init__(self, plan: Plan, found: Connected, records: dict[str, Record]) -> None:
        self._store = found.store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mirror")
        self._projector: Projector | None = None
        if found.tracking:
            from orchestrator.tracking import Projector

            self._projector = Projector(plan, found.tracking, records)

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(wait=True)
        if self._projector is not None:
            self._projector.close(MIRROR_PATIENCE_S)

    def add(self, keys: list[str]) -> None:
        if self._projector is not None:
            self._pool.submit(self._add, self._projector, keys)

    def _add(self, projector: Projector, keys: list[str]) -> None:
        for key in keys:
            projector.add(self._store.record(key))


class _Both:
    """An Observer that shows and mirrors."""

    def __init__(self, progress: Progress, mirror: Mirror) -> None:
        self._progress, self._mirror = progress, mirror

    def started(self, lane: list[Unit]) -> None:
        self._progress.started(lane)

    def committed(self, unit: Unit, keys: list[str], score: float | None) -> None:
        self._progress.committed(unit, keys, score)
        self._mirror.add(keys)

    def failed(self, unit: Unit) -> None:
        self._progress.failed(unit)


def report(planned: Planned, found: Connected, folder: Path) -> reports.ReportFiles:
    """Write the report of what the store holds of the sweep."""
    plan = planned.plan
    return reports.write_report(
        plan,
        found.store.records(plan.trials),
        found.store.ticket,
        folder,
        planned.sweep.win,
        command=f"sweepstakes run {planned.path}",
        failures=failures(found.store, plan),
    )


def failures(store: TicketStore, plan: Plan) -> dict[str, str]:
    """The last error of each trial of the plan that failed and was not committed since."""
    noted = {key: note["error"] for key, note in store.failures().items() if key in plan.trials}
    committed = store.keys() if noted else set()
    return {key: error for key, error in noted.items() if key not in committed}


TOLD = ("schedule", "model, task", "tickets", "relaxed to", "score there")
MOST_VERDICTS = 16
"""Rows of the verdict table in a terminal; the headline says what more of them come to."""
CONTROLS = ("random there", "layer-matched there", "dense")


def print_verdicts(files: reports.ReportFiles, console: Console) -> None:
    """The verdict table as far as a terminal holds it; the page has the rest."""
    header, rows = reports.verdict_table(files.verdicts)
    if len(rows) <= MOST_VERDICTS:
        _print_table(header, rows, console)
    for sentence in files.headline:
        console.print(sentence)
    console.print()


def _print_table(header: list[str], rows: list[list[str]], console: Console) -> None:
    chosen = [index for index, name in enumerate(header) if name in (*TOLD, *CONTROLS)]
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for index in chosen:
        name = header[index].removesuffix(" there").replace("relaxed to", "wins to")
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(row[index].split(" (")[0] for index in chosen))
    console.print(table)
    console.print()


def sync(planned: Planned, found: Connected, folder: Path) -> int:
    """Rebuild the MLflow experiment; returns the number of trials that it holds."""
    if not found.tracking:
        raise ConfigError(f"{planned.path}: placement.tracking = none; name an MLflow to write to")
    from mlflow.exceptions import MlflowException

    from orchestrator import tracking
    from orchestrator.tracking.experiment import first_line

    records = found.store.records(planned.plan.trials)
    try:
        tracking.sync(planned.plan, records, found.tracking, folder if folder.exists() else None)
    except MlflowException as error:
        raise InputError(
            f"{found.tracking}: MLflow cannot be used ({first_line(error)}); check"
            " `placement.tracking` and that the server runs"
        ) from error
    return len(records)


def publish(planned: Planned, found: Connected, files: reports.ReportFiles) -> None:
    """Copy the report into MLflow, if there is one and it answers."""
    try:
        if found.tracking:
            sync(planned, found, files.page.parent)
    except InputError as error:
        log.warning("%s; `sweepstakes sync` catches up", error)


def show_status(planned: Planned, found: Connected, console: Console, *, watch: bool) -> None:
    """Chains as rows, levels as cells; with `watch`, until nothing is left to be done."""
    plan = planned.plan

    def look() -> tuple[Table, bool]:
        board = _board(plan, found.store.records(plan.trials), failures(found.store, plan))
        table = board.table()
        table.caption = board.summary()
        return table, board.settled()

    table, ended = look()
    if not watch:
        console.print(table)
        return
    with Live(table, console=console) as live:
        while not ended:
            time.sleep(WATCH_PERIOD_S)
            table, ended = look()
            live.update(table)
