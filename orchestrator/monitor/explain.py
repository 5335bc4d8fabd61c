"""One trial of a plan: its place, why it runs or not, and where what it gave is. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.errors import InputError
from orchestrator.monitor.status import Status, logs_command
from orchestrator.plan.graph import Cell, Plan, Trial, describe
from orchestrator.store import paths

MOST_LINES = 12
"""Of one heading; a dense run may have hundreds of children."""
NOTED = ("error", "attempts", "host", "at")
"""Of a failure's note; the end of its traceback is in the log too."""


def find(plan: Plan, beginning: str) -> Trial:
    """The trial whose key begins so; InputError unless there is exactly one."""
    found = [trial for trial in plan if trial.key.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(
            f"{beginning!r} begins no key of {plan.name}; `sweepstakes plan SWEEP --json` names"
            " them all, and a changed file has others"
        )
    some = ", ".join(trial.key[: len(beginning) + 6] for trial in found[:3])
    raise InputError(
        f"{beginning!r} begins the keys of {len(found)} trials ({some}, …); give more digits"
    )


def explain(
    plan: Plan, trial: Trial, known: Status, sweep: str, *, mlflow: str = ""
) -> dict[str, list[str]]:
    """Headings, each with the lines below it; those that nothing is known of are left out.

    `sweep` is the path of the sweep's file; `mlflow` says where its MLflow is, empty without one.
    """
    rows = {
        "trial": [trial.key, describe(trial)],
        "state": [why(trial, known)],
        "asked for by": _cells(plan, trial.key),
        "made by": [_line(plan, trial.rides, known)] if trial.rides else [],
        "needs": [_line(plan, key, known) for key in trial.parents if key != trial.rides],
        "gives": _lines(plan, (t for t in plan if t.rides == trial.key), known),
        "needed by": _lines(
            plan, (t for t in plan if trial.key in t.parents and t.rides != trial.key), known
        ),
        "rests on it": [_resting(plan, trial.key)],
        **_result(trial, known),
        "log": [logs_command(trial.rides or trial.key, sweep)],
    }
    if trial.kind == "train" and mlflow:
        query = f"tags.`sweepstakes.key` = '{trial.key}'"
        rows["MLflow"] = [mlflow, f"experiment {plan.name}, search for {query}"]
    return {heading: lines for heading, lines in rows.items() if lines}


def state(trial: Trial, known: Status) -> str:
    """`committed`, `at work`, `failed` or `open`."""
    if trial.key in known.records:
        return "committed"
    if trial.key in known.running or trial.rides in known.running:
        return "at work"
    return "failed" if trial.key in known.failures else "open"


def why(trial: Trial, known: Status) -> str:
    """The state, and why the next run makes the trial or does not."""
    now = state(trial, known)
    match now:
        case "committed":
            return f"{now}: the store has its record, and no run makes it again"
        case "at work":
            return f"{now}: a worker holds its claim"
        case "failed":
            return f"{now}: the next run tries it again"
    if trial.rides and trial.rides in known.records:
        return (
            f"{now}: made by replaying {trial.rides[:12]}, which was committed before this was"
            " asked for, and must end in the same weights"
        )
    missing = ", ".join(key[:12] for key in trial.parents if key not in known.records)
    if missing:
        return f"{now}: comes after {missing}, of which the store has no record yet"
    return f"{now}: the store has no record of it, and all it needs is there"


def _cells(plan: Plan, key: str) -> list[str]:
    return _bounded(_cell(cell) for cell in plan.cells if key in (cell.trial, cell.ticket))


def _cell(cell: Cell) -> str:
    curve = cell.curve
    labels = [
        *(f"study {curve.study}", curve.model, curve.task, f"recipe {curve.recipe}"),
        *([curve.schedule] if curve.schedule else []),
        *(f"theta_{curve.rewind}", curve.source, f"seed {curve.seed}", f"level {cell.level}"),
    ]
    return f"{' · '.join(labels)} ({cell.sparsity:.2%} pruned)"


def _resting(plan: Plan, key: str) -> str:
    """How many of the sweep's scores could not be had without the trial."""
    reached = {key}
    for trial in plan:  # parents stand before their children
        if trial.rides in reached or not reached.isdisjoint(trial.parents):
            reached.add(trial.key)
    resting = sum(cell.trial in reached for cell in plan.cells)
    return f"{resting:,} of {len(plan.cells):,} scores"


def _lines(plan: Plan, trials: Iterable[Trial], known: Status) -> list[str]:
    return _bounded(_line(plan, trial.key, known) for trial in trials)


def _line(plan: Plan, key: str, known: Status) -> str:
    trial = plan.trials[key]
    return f"{key[:12]} {describe(trial)}: {state(trial, known)}"


def _bounded(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = len(found) - MOST_LINES
    return [*found[:MOST_LINES], f"and {more:,} more"] if more > 0 else found


def _result(trial: Trial, known: Status) -> dict[str, list[str]]:
    """What the trial's record, or the note of its last failure, holds."""
    note = known.failures.get(trial.key, {})
    rows = {"last failure": [f"{name} {note[name]}" for name in NOTED if name in note]}
    record = known.records.get(trial.key)
    if record is None:
        return rows
    if record.ticket is not None:
        kept, total = record.ticket.kept, record.ticket.total
        rows["ticket" if trial.kind == "cut" else "wears"] = [
            paths.ticket(record.ticket.sha256),
            f"keeps {kept:,} of {total:,} weights: {1 - kept / total:.2%} pruned",
        ]
    if record.weights is not None:
        rows["weights"] = [f"{record.weights.path} ({record.weights.bytes:,} bytes)"]
    rows["scores"] = [f"{name} {value:.6g}" for name, value in record.scores.items()]
    rows["cost"] = [f"{name} {value:.6g}" for name, value in record.costs.items()]
    rows["record"] = [paths.record(trial.key), f"of {record.created}"]
    rows["machine"] = [f"{name} {value}" for name, value in record.environment.items()]
    return rows
