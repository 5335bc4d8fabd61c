"""`sweepstakes plan`: what a sweep would run, and what that would cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from orchestrator.api import workspace
from orchestrator.cli import shared as cli_shared
from orchestrator.cli.shared import SWEEP, out
from orchestrator.cost.estimate import Estimate, Saving, estimate, figure
from orchestrator.monitor.terminal import clock
from orchestrator.plan.counts import Preview, preview
from orchestrator.plan.graph import describe
from orchestrator.sweep.config import Placement

UNMEASURED = "not measured yet"


@click.command()
@SWEEP
@click.option("--json", "as_json", is_flag=True, help="Print the numbers, and every key, as JSON.")
@click.option("--offline", is_flag=True, help="Count without the store and the data files.")
@click.pass_obj
def plan(home: Path, sweep: Path, as_json: bool, offline: bool) -> None:
    """Show a sweep's trials, what exists, what the rest costs."""
    planned = cli_shared.planned(sweep, home, offline=offline)
    placement = planned.sweep.placement
    records = {}
    if not offline and workspace.has_store(placement, home):
        with cli_shared.opened(planned, home, tracking=False) as found:
            records = found.store.records(planned.plan.trials)
    shown = preview(planned.plan, records, planned.pools())
    ahead = estimate(planned.plan, records, placement, planned.profile)
    if as_json:
        keys = {} if offline else {trial.key: describe(trial) for trial in planned.plan}
        numbers = shown.as_json() | {"estimate": asdict(ahead) if ahead else None, "keys": keys}
        click.echo(json.dumps(numbers, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value, remark in (*_counts(shown), *_costs(ahead, placement)):
        table.add_row(f"[bold]{name}[/]", value, f"[dim]{remark}[/]")
    out.print(table)
    if len(shown.blocks) > 1:
        out.print()
        out.print(_blocks_table(shown))


def _counts(shown: Preview) -> Iterator[tuple[str, str, str]]:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in shown.by_kind.items())
    yield "cells", f"{shown.cells:,}", "scores the sweep asks for"
    yield "trials", f"{shown.trials:,}", "training runs, each once"
    yield "naive trials", f"{shown.naive_trials:,}", "the same with every cell on its own"
    if shown.rounds:
        remark = f"pre-training runs, each once; {shown.naive_rounds:,} naively"
        yield "rounds", f"{shown.rounds:,}", remark
    yield "by kind", kinds, ""
    yield "existing", f"{shown.existing:,}", "of any kind, in the store"
    yield "to run", f"{shown.to_run:,}", "training runs left"
    yield "replays", f"{shown.replays:,}", "runs repeated for a later wish"
    yield "critical path", f"{shown.critical_path:,}", "training runs in a row"
    yield "steps", f"{shown.steps:,}", "optimizer steps left"
    yield "store", _size(shown.store_bytes), "tickets and records to come"


def _costs(ahead: Estimate | None, placement: Placement) -> Iterator[tuple[str, str, str]]:
    """Ranges: `estimate` says what is low and what is high."""
    if ahead is None:
        yield "slot hours", UNMEASURED, "known once a trial has ended"
        if placement.cluster:
            yield "money", UNMEASURED, ""
        return
    hardware = f", on {' and '.join(ahead.hardware)}" if ahead.hardware else ""
    pace = f"{ahead.measured:.0%} of the runs by a measured pace, the rest by their work{hardware}"
    yield "slot hours", str(ahead.slot_hours), pace
    if ahead.gpu_hours is not None:
        yield "GPU hours", str(ahead.gpu_hours), "of these slots"
    if ahead.wall_hours is not None:
        yield "hours", str(ahead.wall_hours), f"to the end, on {ahead.slots:,} slots"
    if ahead.money is not None:
        remark = "on the cheapest nodes, full; to the dearest, each up for one trial"
        yield "money", f"{ahead.money} {ahead.currency}", remark
    yield "checkpoints", *_saving(ahead.saving, placement)


def _saving(saving: Saving, placement: Placement) -> tuple[str, str]:
    redone = (
        f"{saving.redone:.2%} of the time is lost if a worker is, every"
        f" {clock(placement.lost_every_s)}"
    )
    if saving.longest_s <= saving.period_s:
        longest = f"no trial of {clock(saving.longest_s)} lasts {clock(saving.period_s)}"
        return "none", f"{longest}; {redone}"
    cost = UNMEASURED if saving.cost_s is None else f"{figure(saving.cost_s)} s"
    return (
        f"every {clock(saving.period_s)}",
        f"each {cost}: {saving.saving:.2%} of the time; {redone}",
    )


def _blocks_table(shown: Preview) -> Table:
    """A row per study: what it asks for, what that takes, and what of it is new."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("study")
    pretraining = bool(shown.rounds)
    names = ("scores", "naive trials", "new trials", "naive rounds", "new rounds", "of the work")
    for name in names:
        if pretraining or "rounds" not in name:
            table.add_column(name, justify="right")
    for block in (*shown.blocks, None):
        of = block or shown
        counts = [f"{of.naive_trials:,}", f"{of.trials:,}"]
        if pretraining:
            counts += [f"{of.naive_rounds:,}", f"{of.rounds:,}"]
        share = f"{block.work:.0%}" if block else ""
        name = block.study if block else "[bold]all[/]"
        table.add_row(name, f"{of.cells:,}", *counts, share)
    return table


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
