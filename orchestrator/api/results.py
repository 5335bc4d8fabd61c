"""What the operations on a sweep return: a plan, a status, a report, the outcome of a run.

They are plain data, with tidy pandas frames: one row per trial, or one per score. No frame has an
index that matters, and missing numbers are NaN. pandas, which takes half a second to import, is
imported when a frame is requested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.cost.estimate import Estimate
from orchestrator.cost.ledger import Bill
from orchestrator.errors import RunError
from orchestrator.monitor import status as status_of_store
from orchestrator.monitor.status import Status
from orchestrator.monitor.terminal import format_duration, format_time_left
from orchestrator.plan.counts import PlanCounts
from orchestrator.plan.graph import Plan, Trial
from orchestrator.sweep.config import Win
from trainables.spec import PruneSpec

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.report.write import ReportFiles

TRIAL_COLUMNS = {
    **dict.fromkeys(("key", "kind", "model", "task"), "str"),
    "level": "int64",
    "state": "str",
    **dict.fromkeys(("sparsity", "score", "steps", "seconds"), "float64"),
    **dict.fromkeys(("error", "produced_by"), "str"),
    "parents": "object",
}


@dataclass(frozen=True, slots=True, repr=False)
class SweepData:
    """A sweep's trials, and what its store holds of them."""

    graph: Plan
    """The trials as a directed acyclic graph, and the scores that the sweep requests."""
    stored: Status
    """Records, running trials and failures by key."""

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.graph.name

    def trials(self) -> pd.DataFrame:
        """Return one row per trial, parents before their children.

        Columns: `key` (64 hex digits), `kind` (`train`, `prune` or `rewind`), `model`, `task` and
        `level` as in the sweep, `state` (see below), `sparsity` (0 to 1, of the ticket that the
        trial makes or applies: exact if it is done, planned for a ticket that is not), `score`
        (percent), `steps` and `seconds` as measured, `error` (the last one, if the trial failed),
        `produced_by` (key of the training run whose by-product the trial is, or empty) and
        `parents` (keys that must be done before).

        A plan has the states `done`, `skipped` and `missing`. A report also has `failed` and
        `blocked`, and a status also has these and `running`.
        """
        import pandas as pd

        states = self._states()
        rows = [self._trial_row(trial, states[trial.key]) for trial in self.graph]
        return pd.DataFrame(rows, columns=list(TRIAL_COLUMNS)).astype(TRIAL_COLUMNS)

    def scores(self) -> pd.DataFrame:
        """Return one row per requested score, in the order of the sweep.

        The columns `study`, `model`, `task`, `metric` (empty if the task has one), `recipe`,
        `schedule`, `rewind`, `source` (of the ticket; `dense` without one), `seed` and `level`
        say which score it is. `score` is in percent, and NaN if it is missing; `best` and `last`
        are its highest and last value during training, `prior` is the score of a baseline
        without the image. `sparsity` is the pruned share, 0 to 1, exact if the ticket exists and
        otherwise `planned_sparsity`; `kept` of `total` weights remain. `seconds` is the time of the
        run. `state` is as in `trials`, but never `running`. `trial`, `prune_trial` and `ticket` are
        the key of the run, the key of the trial that made the ticket, and the ticket's hash.
        """
        from orchestrator.report.data import tables

        stored = self.stored
        return tables.cell_scores(self.graph, stored.records, stored.failures, stored.skipped)

    def counts(self) -> dict[str, int]:
        """Return the number of training runs in each state that occurs."""
        states = self._states()
        return dict(Counter(states[trial.key] for trial in self.graph.training_runs()))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def _states(self) -> dict[str, str]:
        from orchestrator.report.data.tables import trial_states

        stored = self.stored
        states: dict[str, str] = dict(
            trial_states(self.graph, stored.records, stored.failures, stored.skipped)
        )
        for trial in self.graph:
            running = {trial.key, trial.produced_by} & stored.running.keys()
            if running and trial.key not in stored.records:
                states[trial.key] = "running"
        return states

    def _trial_row(self, trial: Trial, state: str) -> dict[str, object]:
        record = self.stored.records.get(trial.key)
        ticket = record.ticket if record else None
        planned = trial.spec.sparsity if isinstance(trial.spec, PruneSpec) else None
        costs: Mapping[str, float] = record.costs if record else {}
        return {
            "key": trial.key,
            "kind": trial.kind,
            "model": trial.model,
            "task": trial.task,
            "level": trial.level,
            "state": state,
            "sparsity": 1 - ticket.kept / ticket.total if ticket and ticket.total else planned,
            "score": record.scores.get("score") if record else None,
            "steps": costs.get("steps"),
            "seconds": costs.get("seconds"),
            "error": str(self.stored.failures.get(trial.key, {}).get("error", "")),
            "produced_by": trial.produced_by,
            "parents": trial.parents,
        }


@dataclass(frozen=True, slots=True, repr=False)
class SweepPlan(SweepData):
    """What a sweep would run, and what that costs."""

    totals: PlanCounts
    """Cells, trials with and without sharing, what is left, the critical path, and so on."""
    estimate: Estimate | None
    """Hours, and with a cluster profile the money, of what is left; None until a trial of the sweep
    was measured."""

    def cells(self) -> pd.DataFrame:
        """Return one row per score that the sweep requests; the same as `scores`."""
        return self.scores()

    def __str__(self) -> str:
        totals = self.totals
        text = (
            f"{self.name}: {totals.training_runs} trials for {totals.cells} scores"
            f" ({totals.naive_training_runs} without sharing), {totals.new_runs} to run"
        )
        return f"{text}, {self.estimate.slot_hours} slot hours" if self.estimate else text


@dataclass(frozen=True, slots=True, repr=False)
class SweepStatus(SweepData):
    """The progress of a sweep, as its store showed it at one time."""

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all trials are done; None if no worker is active, or if no run
        has ended yet."""
        board = self.stored.board(self.graph)
        return status_of_store.eta_s(board, self.stored, datetime.now(UTC))

    def __str__(self) -> str:
        text = f"{self.name}: {self.stored.board(self.graph).summary()}"
        return f"{text}, {format_time_left(self.seconds_left)}" if self.stored.running else text


@dataclass(frozen=True, slots=True, repr=False)
class SweepReport(SweepData):
    """The results of a sweep, complete or not."""

    rule: Win
    """When a ticket counts as winning."""
    files: ReportFiles | None = None
    """What was written; None without a folder."""

    def verdicts(self) -> pd.DataFrame:
        """Return one row per curve of score against sparsity, with the highest sparsity that
        meets the rule.

        The columns `model`, `task`, `metric`, `recipe`, `schedule`, `rewind`, `source` and
        `variant` say which curve it is. `verdict` is `winning`, `relaxed winning`, `none` or
        `undecided` (too few seeds). `winning`, `relaxed` and `unbroken` are sparsities: up to the
        dense score, up to the rule's share of it, and the last level before the first one that
        misses that share. `dense_mean`, `_sd` and `_n` are those of the dense network, over seeds;
        `line` is the score that the rule requires; `score_*` and, for each control of the same
        size, `random_*`, `random_layerwise_*` are those at the sparsity `relaxed`. `prior` is the
        score of a baseline without the image, `deepest` the highest sparsity with enough seeds,
        `open` the number of missing scores, without those of skipped trials.
        """
        from orchestrator.report.data import tables
        from orchestrator.report.data.verdicts import curve_verdicts

        return curve_verdicts(tables.unify_recipe_names(self.scores()), self.rule)

    def headline(self) -> list[str]:
        """Return the result in a few sentences; an empty list if no found ticket has a score."""
        from orchestrator.report.sections.headline import headline

        return headline(self.verdicts(), self.rule)[0]

    def __str__(self) -> str:
        return "\n".join(self.headline()) or f"{self.name}: no verdict"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The outcome of a run. A training run counts once, with the tickets and rewind points that it
    produces."""

    name: str
    done: int
    """Training runs that are newly done, counted as `new_runs` of the plan: without those that were
    done before, repeated or not."""
    failed: int
    """Training runs, repeated ones included, and tickets that need no run."""
    blocked: int
    """Those that depend on a failed one."""
    skipped: int
    """Training runs that the sweep's strategy did not want, counted as `skipped_runs` of the plan.
    They are no failure."""
    seconds: float
    failures: Mapping[str, str]
    """Key of a failed trial -> its last error, in one line."""
    interrupted: bool
    """Whether Ctrl-C or SIGTERM ended the run."""
    budget_spent: bool
    """Whether the budget ran out before all trials were done."""
    outage: str
    """Why the run ended early without a failure of its own, such as a store that did not answer;
    else empty."""
    usage: str
    """`1 to 5 nodes, slots busy 74% of the time`; empty if nothing was run."""
    bill: Bill | None
    """The cost of the nodes, with a cluster profile."""
    remaining: str
    """What is left and what it costs, if the budget was spent; else empty."""
    report: SweepReport | None
    """None if the store stopped answering."""

    @property
    def complete(self) -> bool:
        """Whether every trial that the sweep wants is done."""
        unfinished = self.failed or self.blocked or self.budget_spent
        return not (unfinished or self.interrupted or self.outage)

    def __str__(self) -> str:
        counts = f"{self.done} done, {self.failed} failed, {self.blocked} blocked"
        counts += f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.name}: {counts} in {format_duration(self.seconds)}"


class IncompleteRun(RunError):
    """A run ended, and not every trial of the sweep is done. What was committed is kept."""

    def __init__(self, result: RunResult) -> None:
        self.result = result
        """The outcome, with the failures and with a report on what is done."""
        super().__init__(f"{result}; {_cause(result)}")


def _cause(result: RunResult) -> str:
    if result.outage:
        return f"{result.outage}; run the sweep again"
    if result.budget_spent:
        return "the budget is spent; run the sweep again with a higher one"
    key, error = next(iter(result.failures.items()), ("", ""))
    return f"{key[:12]} failed: {error}; run the sweep again to retry"
