"""What a plan will do before it does it: counts, sharing, critical path, steps, store size.

Pure: what exists already is handed in as records.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass

from orchestrator.plan import work as costs
from orchestrator.plan.graph import Plan, Trial
from trainables.spec import CutSpec, TrainSpec
from trainables.tasks import TASKS

RECORD_BYTES = 2_500
"""A commit record as measured: 1 to 5 KB, most of it the loss curve."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One study of the sweep. A score that several studies ask for counts with the first."""

    study: str
    cells: int
    trials: int
    """Training runs that no earlier study needs."""
    naive_trials: int
    """Training runs if every score had its own chain from the dense network on."""
    rounds: int
    """Pre-training rounds that no earlier study needs, and likewise below; not in `trials`."""
    naive_rounds: int
    work: float
    """Share of the sweep's whole work, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What `sweepstakes plan` counts; `estimate` has its hours and money."""

    name: str
    cells: int
    trials: int
    """Training runs on tasks, each once however many cells share it."""
    naive_trials: int
    """The same if every score had its own chain from the dense network on."""
    rounds: int
    """Pre-training runs, each once; not in `trials`."""
    naive_rounds: int
    blocks: tuple[Block, ...]
    by_kind: dict[str, int]
    existing: int
    """Committed trials of any kind."""
    to_run: int
    """Training runs, pre-training included, still to be done."""
    replays: int
    """Committed runs done again because a cut or rewind point of theirs is wanted only now."""
    critical_path: int
    """Training runs that must follow one another."""
    steps: int
    """Optimizer steps still to be done."""
    store_bytes: int
    """Tickets (n * H(p) bits each) and records of what is to run; rewind points come on top."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def preview(
    plan: Plan,
    committed: Mapping[str, object],
    pools: Mapping[str, Mapping[str, int]],
) -> Preview:
    """`pools` gives the weights in each pool by model label."""
    left = runs_left(plan, committed)
    replays = sum(trial.key in committed for trial in left)
    blocks = _blocks(plan)
    return Preview(
        name=plan.name,
        cells=len(plan.cells),
        trials=sum(block.trials for block in blocks),
        naive_trials=sum(block.naive_trials for block in blocks),
        rounds=sum(block.rounds for block in blocks),
        naive_rounds=sum(block.naive_rounds for block in blocks),
        blocks=blocks,
        by_kind=dict(Counter(trial.kind for trial in plan)),
        existing=sum(key in committed for key in plan.trials),
        to_run=len(left) - replays,
        replays=replays,
        critical_path=critical_path(plan),
        steps=sum(map(costs.steps_of, left)),
        store_bytes=_store_bytes(plan, committed, pools),
    )


def runs_left(plan: Plan, committed: Container[str]) -> list[Trial]:
    """The training runs still to be done, in the plan's order; a committed one again if a cut or
    rewind point of it is missing."""
    heads = dict.fromkeys(trial.rides or trial.key for trial in plan if trial.key not in committed)
    return [trial for head in heads if (trial := plan.trials[head]).kind == "train"]


def _blocks(plan: Plan) -> tuple[Block, ...]:
    """By study, in the order of the file."""
    cells: dict[str, list[str]] = {}
    asked: set[str] = set()
    for cell in plan.cells:
        own = cells.setdefault(cell.curve.study, [])
        if cell.trial not in asked:
            asked.add(cell.trial)
            own.append(cell.trial)
    whole = sum(costs.work_of(trial) for trial in plan)
    all_rounds = {trial.key for trial in plan if is_round(trial)}
    seen: set[str] = set()
    blocks = []
    for study, trials in cells.items():
        naive = naive_rounds = 0
        new: set[str] = set()
        for key in trials:
            needed = training_ancestry(plan, key)
            naive += len(needed)
            naive_rounds += len(needed & all_rounds)
            new |= needed - seen
        seen |= new
        rounds = len(new & all_rounds)
        blocks.append(
            Block(
                study=study,
                cells=len(trials),
                trials=len(new) - rounds,
                naive_trials=naive - naive_rounds,
                rounds=rounds,
                naive_rounds=naive_rounds,
                work=sum(costs.work_of(plan.trials[key]) for key in new) / whole if whole else 0.0,
            )
        )
    return tuple(blocks)


def is_round(trial: Trial) -> bool:
    """Whether a training run is one of pre-training."""
    return isinstance(trial.spec, TrainSpec) and TASKS[trial.spec.task.name].pretraining


def training_ancestry(plan: Plan, key: str) -> set[str]:
    """The training runs that `key` needs, itself included if it is one."""
    found: set[str] = set()
    seen = {key}
    stack = [key]
    while stack:
        trial = plan.trials[stack.pop()]
        if trial.kind == "train":
            found.add(trial.key)
        fresh = [parent for parent in trial.parents if parent not in seen]
        seen.update(fresh)
        stack += fresh
    return found


def critical_path(plan: Plan) -> int:
    """Length of the longest chain of training runs."""
    depth: dict[str, int] = {}
    for trial in plan:
        before = max((depth[parent] for parent in trial.parents), default=0)
        depth[trial.key] = before + (trial.kind == "train")
    return max(depth.values(), default=0)


def _store_bytes(
    plan: Plan, committed: Mapping[str, object], pools: Mapping[str, Mapping[str, int]]
) -> int:
    total = 0.0
    for trial in plan:
        if trial.key in committed:
            continue
        total += RECORD_BYTES
        if isinstance(trial.spec, CutSpec):
            weights = pools[trial.model][trial.spec.pool]
            total += weights * entropy(trial.spec.sparsity) / 8
    return round(total)


def entropy(p: float) -> float:
    """Shannon's binary entropy in bits: what a weight of a random ticket costs at least."""
    if p in (0.0, 1.0):
        return 0.0
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)
