"""One trial of a plan: its dependencies, why it runs or does not, where its results are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.monitor.status import Status, logs_command
from orchestrator.plan.graph import Cell, Plan, Trial, describe_trial
from orchestrator.plan.keys import match_prefix
from orchestrator.store import paths
from trainables.spec import PruneSpec, TrainSpec
from trainables.tickets import units

MAX_LINES = 12
"""Lines below one heading: a dense run may have hundreds of children."""
MAX_EVENTS = 40
FAILURE_FIELDS = ("error", "attempts", "host", "at")
"""Fields of a failure that are shown. The traceback is left out, since the log has it too."""


def find_trial(plan: Plan, prefix: str) -> Trial:
    """Return the trial whose key starts with `prefix`.

    Raises:
        InputError: no trial or several trials match.
    """
    missing = (
        f"list the keys of {plan.name} with `sweepstakes plan SWEEP --json` (they change when the"
        " sweep file does)"
    )
    return plan.trials[match_prefix(prefix, plan.trials, "trial", missing)]


def explain(
    plan: Plan,
    trial: Trial,
    status: Status,
    sweep: str,
    *,
    mlflow: Sequence[str] = (),
    events: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Return headings, each with the lines below it. Empty headings are left out.

    `sweep` is the path of the sweep file. `mlflow` are the command that serves its MLflow
    runs and the link to them; empty without tracking. `events` is what has happened to the trial in
    runs from this machine (see `event_log.read_events`).
    """
    rows = {
        "trial": [trial.key, describe_trial(trial)],
        "state": [explain_state(trial, status)],
        "events": _last(events),
        "requested by": _cells(plan, trial.key),
        "produced by": [_line(plan, trial.produced_by, status)] if trial.produced_by else [],
        "needs": [_line(plan, key, status) for key in trial.parents if key != trial.produced_by],
        "produces": _lines(plan, (t for t in plan if t.produced_by == trial.key), status),
        "needed by": _lines(
            plan, (t for t in plan if trial.key in t.parents and t.produced_by != trial.key), status
        ),
        "affects": [_affected_scores(plan, trial.key)],
        **_result(plan, trial, status),
        "log": [logs_command(trial.produced_by or trial.key, sweep)],
    }
    if trial.kind == "train" and mlflow:
        query = f"tags.`sweepstakes.key` = '{trial.key}'"
        rows["MLflow"] = [*mlflow, f"experiment {plan.name}, search for {query}"]
    return {heading: lines for heading, lines in rows.items() if lines}


def trial_state(trial: Trial, status: Status) -> str:
    """Return `committed`, `running`, `skipped`, `failed` or `pending`."""
    if trial.key in status.records:
        return "committed"
    if trial.key in status.running or trial.produced_by in status.running:
        return "running"
    if trial.key in status.skipped:
        return "skipped"
    return "failed" if trial.key in status.failures else "pending"


def explain_state(trial: Trial, status: Status) -> str:
    """Return the state, and why the next run will or will not execute the trial."""
    state = trial_state(trial, status)
    match state:
        case "committed":
            return f"{state}: the store has its record, so no run executes it again"
        case "running":
            return f"{state}: a worker holds its lease"
        case "failed":
            return f"{state}: the next run retries it"
        case "skipped":
            return f"{state}: not needed for what the sweep's strategy wants so far"
    if trial.produced_by and trial.produced_by in status.records:
        return (
            f"{state}: will be produced by a replay of {trial.produced_by[:12]}, which was"
            " committed before this was requested; the replay must end with the same weights"
        )
    missing = ", ".join(key[:12] for key in trial.parents if key not in status.records)
    if missing:
        return f"{state}: waits for {missing}, not committed yet"
    return f"{state}: ready to run, since all trials it needs are committed"


def _cells(plan: Plan, key: str) -> list[str]:
    return _truncated(_cell(cell) for cell in plan.cells if key in (cell.trial, cell.ticket))


def _cell(cell: Cell) -> str:
    curve = cell.curve
    labels = [
        *(f"study {curve.study}", curve.model, curve.task, f"recipe {curve.recipe}"),
        *([curve.schedule] if curve.schedule else []),
        *(f"theta_{curve.rewind}", curve.source, f"seed {curve.seed}", f"level {cell.level}"),
    ]
    return f"{' · '.join(labels)} ({cell.sparsity:.2%} pruned)"


def _affected_scores(plan: Plan, key: str) -> str:
    """How many of the sweep's scores depend on the trial."""
    dependents = {key}
    for trial in plan:  # parents precede their children
        if trial.produced_by in dependents or not dependents.isdisjoint(trial.parents):
            dependents.add(trial.key)
    count = sum(cell.trial in dependents for cell in plan.cells)
    return f"{count:,} of {len(plan.cells):,} scores"


def _lines(plan: Plan, trials: Iterable[Trial], status: Status) -> list[str]:
    return _truncated(_line(plan, trial.key, status) for trial in trials)


def _line(plan: Plan, key: str, status: Status) -> str:
    trial = plan.trials[key]
    return f"{key[:12]} {describe_trial(trial)}: {trial_state(trial, status)}"


def _truncated(lines: Iterable[str]) -> list[str]:
    all_lines = list(lines)
    more = len(all_lines) - MAX_LINES
    return [*all_lines[:MAX_LINES], f"and {more:,} more"] if more > 0 else all_lines


def _last(lines: Sequence[str]) -> list[str]:
    earlier = len(lines) - MAX_EVENTS
    return [f"{earlier:,} earlier", *lines[earlier:]] if earlier > 0 else list(lines)


def _result(plan: Plan, trial: Trial, status: Status) -> dict[str, list[str]]:
    """Contents of the trial's record, and of the note on its last failure."""
    note = status.failures.get(trial.key, {})
    rows = {"last failure": [f"{name} {note[name]}" for name in FAILURE_FIELDS if name in note]}
    record = status.records.get(trial.key)
    if record is None:
        return rows
    if record.ticket is not None:
        kept, total = record.ticket.kept, record.ticket.total
        rows["ticket" if trial.kind == "prune" else "applied ticket"] = [
            paths.ticket(record.ticket.sha256),
            f"keeps {kept:,} of {total:,} {_units(plan, trial)}: {1 - kept / total:.2%} pruned",
        ]
    if record.weights is not None:
        rows["weights"] = [f"{record.weights.path} ({record.weights.bytes:,} bytes)"]
    rows["scores"] = [f"{name} {value:.6g}" for name, value in record.scores.items()]
    rows["cost"] = [f"{name} {value:.6g}" for name, value in record.costs.items()]
    rows["record"] = [paths.record(trial.key), f"created {record.created_at}"]
    rows["machine"] = [f"{name} {value}" for name, value in record.environment.items()]
    return rows


def _units(plan: Plan, trial: Trial) -> str:
    """Return what the ticket that the trial makes or applies is over, such as `weights`."""
    ticket = trial.spec if isinstance(trial.spec, PruneSpec) else None
    if isinstance(trial.spec, TrainSpec):
        applied = plan.trials[trial.spec.ticket].spec
        ticket = applied if isinstance(applied, PruneSpec) else None
    return units(ticket.ticket_kind if ticket else "")
