"""Count what a plan will do before it runs: runs, sharing, critical path, steps, store size.

Pure: the caller passes in the records of what is already committed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Mapping
from dataclasses import asdict, dataclass

from orchestrator.plan.graph import Plan, Trial
from orchestrator.plan.work import steps_of, work_of
from trainables.spec import PruneSpec, TrainSpec
from trainables.tasks import TASKS

RECORD_BYTES = 2_500
"""Measured size of a commit record: 1 to 5 KB, most of it the loss curve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCounts:
    """Counts of one study. A score that several studies request counts for the first of them."""

    study: str
    cells: int
    training_runs: int
    """Training runs that no earlier study needs, without pre-training."""
    naive_training_runs: int
    """The same count if every score had its own chain, from the dense network on."""
    pretraining_runs: int
    """Pre-training rounds that no earlier study needs."""
    naive_pretraining_runs: int
    """The same count if every score had its own chain."""
    work_share: float
    """Share of the sweep's total work, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCounts:
    """The counts that `sweepstakes plan` prints; `estimate` has the hours and the money."""

    name: str
    cells: int
    training_runs: int
    """Training runs on tasks, without pre-training. A run that several cells share counts once."""
    naive_training_runs: int
    """The same count if every score had its own chain, from the dense network on."""
    pretraining_runs: int
    """Pre-training rounds, each once."""
    naive_pretraining_runs: int
    """The same count if every score had its own chain."""
    studies: tuple[StudyCounts, ...]
    trials_by_kind: dict[str, int]
    committed_trials: int
    """Committed trials of any kind."""
    new_runs: int
    """Training runs still to be done, pre-training included, without `replays`."""
    replays: int
    """Committed runs that must be repeated because a ticket or rewind point of theirs was requested
    later."""
    skipped_runs: int
    """Training runs that the strategy does not want with the results so far."""
    critical_path: int
    """Length of the longest chain of training runs that must follow one another."""
    remaining_steps: int
    """Optimizer steps still to be done."""
    store_bytes: int
    """Size of the tickets (n * H(p) bits each) and records still to be written, without rewind
    points."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def count_plan(
    plan: Plan,
    committed: Mapping[str, object],
    pools: Mapping[str, Mapping[str, int]],
    skipped: Collection[str] = (),
) -> PlanCounts:
    """Count the plan.

    `committed` has the keys of committed trials; its values are not used. `pools` maps each model's
    label to the number of weights in each pool. `skipped` are trials that the strategy does not
    want.
    """
    remaining = remaining_runs(plan, committed, skipped)
    replays = sum(trial.key in committed for trial in remaining)
    studies = _study_counts(plan)
    return PlanCounts(
        name=plan.name,
        cells=len(plan.cells),
        training_runs=sum(study.training_runs for study in studies),
        naive_training_runs=sum(study.naive_training_runs for study in studies),
        pretraining_runs=sum(study.pretraining_runs for study in studies),
        naive_pretraining_runs=sum(study.naive_pretraining_runs for study in studies),
        studies=studies,
        trials_by_kind=dict(Counter(trial.kind for trial in plan)),
        committed_trials=sum(key in committed for key in plan.trials),
        new_runs=len(remaining) - replays,
        replays=replays,
        skipped_runs=sum(plan.trials[key].kind == "train" for key in skipped),
        critical_path=critical_path(plan),
        remaining_steps=sum(map(steps_of, remaining)),
        store_bytes=_store_bytes(plan, {*committed, *skipped}, pools),
    )


def remaining_runs(
    plan: Plan, committed: Container[str], skipped: Container[str] = ()
) -> list[Trial]:
    """Return the training runs still to be done, in the plan's order.

    A committed run is among them if a ticket or rewind point that it produces is missing. Trials in
    `skipped` are left out.
    """
    keys = dict.fromkeys(
        trial.produced_by or trial.key
        for trial in plan
        if trial.key not in committed and trial.key not in skipped
    )
    return [trial for key in keys if (trial := plan.trials[key]).kind == "train"]


def _study_counts(plan: Plan) -> tuple[StudyCounts, ...]:
    """Return the counts of each study, in the order of the file."""
    scored_by_study: dict[str, list[str]] = {}
    scored: set[str] = set()
    for cell in plan.cells:
        keys = scored_by_study.setdefault(cell.curve.study, [])
        if cell.trial not in scored:
            scored.add(cell.trial)
            keys.append(cell.trial)
    total_work = sum(work_of(trial) for trial in plan)
    pretraining = {trial.key for trial in plan if is_pretraining(trial)}
    counted: set[str] = set()
    studies = []
    for study, keys in scored_by_study.items():
        naive = naive_pretraining = 0
        new: set[str] = set()
        for key in keys:
            needed = training_ancestry(plan, key)
            naive += len(needed)
            naive_pretraining += len(needed & pretraining)
            new |= needed - counted
        counted |= new
        new_pretraining = len(new & pretraining)
        work = sum(work_of(plan.trials[key]) for key in new)
        studies.append(
            StudyCounts(
                study=study,
                cells=len(keys),
                training_runs=len(new) - new_pretraining,
                naive_training_runs=naive - naive_pretraining,
                pretraining_runs=new_pretraining,
                naive_pretraining_runs=naive_pretraining,
                work_share=work / total_work if total_work else 0.0,
            )
        )
    return tuple(studies)


def is_pretraining(trial: Trial) -> bool:
    """Whether the trial is a training run on a pre-training task."""
    return isinstance(trial.spec, TrainSpec) and TASKS[trial.spec.task.name].pretraining


def training_ancestry(plan: Plan, key: str) -> set[str]:
    """Return the keys of the training runs that `key` needs, `key` included if it is one."""
    runs: set[str] = set()
    visited = {key}
    stack = [key]
    while stack:
        trial = plan.trials[stack.pop()]
        if trial.kind == "train":
            runs.add(trial.key)
        parents = [parent for parent in trial.parents if parent not in visited]
        visited.update(parents)
        stack += parents
    return runs


def critical_path(plan: Plan) -> int:
    """Return the length of the longest chain of training runs."""
    depth: dict[str, int] = {}
    for trial in plan:
        before = max((depth[parent] for parent in trial.parents), default=0)
        depth[trial.key] = before + (trial.kind == "train")
    return max(depth.values(), default=0)


def _store_bytes(
    plan: Plan, committed: Container[str], pools: Mapping[str, Mapping[str, int]]
) -> int:
    total = 0.0
    for trial in plan:
        if trial.key in committed:
            continue
        total += RECORD_BYTES
        if isinstance(trial.spec, PruneSpec):
            weights = pools[trial.model][trial.spec.pool]
            total += weights * binary_entropy(trial.spec.sparsity) / 8
    return round(total)


def binary_entropy(p: float) -> float:
    """Shannon's binary entropy in bits: the least that one weight of a random ticket takes."""
    if p in (0.0, 1.0):
        return 0.0
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)
