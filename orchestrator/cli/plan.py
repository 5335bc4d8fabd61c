"""`sweepstakes plan`: the trials that a sweep would run, and their cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from orchestrator.api import workspace
from orchestrator.cli.shared import SWEEP, open_store, out, read_sweep
from orchestrator.cost.estimate import Checkpointing, Estimate, estimate, format_number
from orchestrator.monitor.terminal import format_duration
from orchestrator.plan.counts import PlanCounts, count_plan
from orchestrator.plan.graph import describe_trial
from orchestrator.sweep.config import Placement

UNMEASURED = "not measured yet"


@click.command()
@SWEEP
@click.option("--json", "as_json", is_flag=True, help="Print the counts and all keys as JSON.")
@click.option("--offline", is_flag=True, help="Count without reading the store and the data.")
@click.pass_obj
def plan(home: Path, sweep: Path, as_json: bool, offline: bool) -> None:
    """Show a sweep's trials and the cost of the missing ones."""
    planned_sweep = read_sweep(sweep, home, offline=offline)
    plan, placement = planned_sweep.plan, planned_sweep.config.placement
    records = {}
    if not offline and workspace.has_store(placement, home):
        with open_store(planned_sweep, home, tracking=False) as connections:
            records = connections.store.records(plan.trials)
    skipped = planned_sweep.skipped(records)
    counts = count_plan(plan, records, planned_sweep.pools(), skipped)
    costs = estimate(plan, records, placement, planned_sweep.profile, skipped)
    if as_json:
        keys = {} if offline else {trial.key: describe_trial(trial) for trial in plan}
        values = counts.as_json() | {"estimate": asdict(costs) if costs else None, "keys": keys}
        click.echo(json.dumps(values, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value, remark in (*_count_rows(counts), *_cost_rows(costs, placement)):
        table.add_row(f"[bold]{name}[/]", value, f"[dim]{remark}[/]")
    out.print(table)
    if len(counts.studies) > 1:
        out.print()
        out.print(_study_table(counts))


def _count_rows(counts: PlanCounts) -> Iterator[tuple[str, str, str]]:
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.trials_by_kind.items())
    yield "cells", f"{counts.cells:,}", "scores that the sweep requests"
    yield "trials", f"{counts.training_runs:,}", "training runs, shared between cells"
    yield "naive trials", f"{counts.naive_training_runs:,}", "training runs without sharing"
    if counts.pretraining_runs:
        remark = f"runs of pre-training; {counts.naive_pretraining_runs:,} without sharing"
        yield "pre-training", f"{counts.pretraining_runs:,}", remark
    yield "by kind", kinds, ""
    yield "existing", f"{counts.committed_trials:,}", "trials of any kind in the store"
    yield "to run", f"{counts.new_runs:,}", "training runs that are missing"
    yield "replays", f"{counts.replays:,}", "re-runs for artifacts requested later"
    if counts.skipped_runs:
        yield "skipped", f"{counts.skipped_runs:,}", "not needed with the results so far"
    yield "critical path", f"{counts.critical_path:,}", "training runs in sequence"
    yield "steps", f"{counts.remaining_steps:,}", "optimizer steps left"
    yield "store", _size(counts.store_bytes), "new tickets and records"


def _cost_rows(costs: Estimate | None, placement: Placement) -> Iterator[tuple[str, str, str]]:
    """Rows with ranges, whose ends are defined in `cost.estimate`."""
    if costs is None:
        yield "slot hours", UNMEASURED, "known once a trial has ended"
        if placement.cluster:
            yield "money", UNMEASURED, ""
        return
    hardware = f", on {' and '.join(costs.hardware)}" if costs.hardware else ""
    measured = f"{costs.measured_share:.0%} of the runs measured, the rest extrapolated"
    yield "slot hours", str(costs.slot_hours), f"{measured}{hardware}"
    if costs.gpu_hours is not None:
        yield "GPU hours", str(costs.gpu_hours), "of these slots"
    if costs.wall_hours is not None:
        yield "wall hours", str(costs.wall_hours), f"until the end, on {costs.slots:,} slots"
    if costs.money is not None:
        remark = "cheapest nodes, fully used, to most expensive nodes, one trial on each"
        yield "money", f"{costs.money} {costs.currency}", remark
    yield "checkpoints", *_checkpoint_cells(costs.checkpointing, placement)


def _checkpoint_cells(checkpointing: Checkpointing, placement: Placement) -> tuple[str, str]:
    lost = (
        f"{checkpointing.repeated_share:.2%} of the time is repeated if a worker is lost every"
        f" {format_duration(placement.mtbf_s)}"
    )
    interval = format_duration(checkpointing.interval_s)
    if checkpointing.longest_trial_s <= checkpointing.interval_s:
        longest = format_duration(checkpointing.longest_trial_s)
        return "none", f"the longest trial takes {longest}, the interval is {interval}; {lost}"
    cost_s = checkpointing.cost_s
    cost = UNMEASURED if cost_s is None else f"{format_number(cost_s)} s"
    remark = f"each {cost}: {checkpointing.overhead_share:.2%} of the time; {lost}"
    return f"every {interval}", remark


def _study_table(counts: PlanCounts) -> Table:
    """One row per study: its scores, the runs that they take, and how many of these are new."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("study")
    pretraining = bool(counts.pretraining_runs)
    names = ("scores", "naive trials", "new trials", "naive pre-training", "new pre-training")
    for name in (*names, "share of work"):
        if pretraining or "pre-training" not in name:
            table.add_column(name, justify="right")
    for study in (*counts.studies, None):
        source = study or counts
        cells = [f"{source.naive_training_runs:,}", f"{source.training_runs:,}"]
        if pretraining:
            cells += [f"{source.naive_pretraining_runs:,}", f"{source.pretraining_runs:,}"]
        share = f"{study.work_share:.0%}" if study else ""
        name = study.study if study else "[bold]all[/]"
        table.add_row(name, f"{source.cells:,}", *cells, share)
    return table


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
