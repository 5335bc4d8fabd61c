"""What a plan will do before it does it: counts, sharing, critical path, work, store size.

Pure: what exists already is handed in as records.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from orchestrator.frontier import Frontier, Unit
from orchestrator.plan import Plan, Trial
from trainables.spec import CutSpec

RECORD_BYTES = 2_500
"""A commit record as measured: 1 to 5 KB, most of it the loss curve."""


class Measured(Protocol):
    """The part of a committed trial's record that costs are read from."""

    @property
    def about(self) -> Mapping[str, str | int]: ...
    @property
    def costs(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """The numbers that `sweepstakes plan` prints; times are None until something was measured."""

    name: str
    cells: int
    trials: int
    """Training runs, each once however many cells share it."""
    naive_trials: int
    """Training runs if every cell ran its own chain from the dense network on."""
    by_kind: dict[str, int]
    existing: int
    """Committed trials of any kind."""
    to_run: int
    """Training runs still to be done."""
    replays: int
    """Committed runs done again because a cut or rewind point of theirs is wanted only now."""
    critical_path: int
    """Training runs that must follow one another."""
    steps: int
    """Optimizer steps still to be done."""
    slot_hours: float | None
    """Hours on one slot, from the seconds per step of committed trials of the same model, task."""
    gpu_hours: float | None
    store_bytes: int
    """Tickets (n * H(p) bits each) and records of what is to run; rewind points come on top."""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def preview(
    plan: Plan,
    committed: Mapping[str, Measured],
    pools: Mapping[str, Mapping[str, int]],
    gpus: float,
) -> Preview:
    """`pools` gives the weights in each pool by model label; `gpus` what one trial occupies."""
    frontier = Frontier(plan, committed)
    runs = [u for u in frontier.units if plan.trials[u.head].kind == "train"]
    fresh = [unit for unit in runs if unit.head in unit.members]
    hours = _slot_hours(runs, committed.values())
    return Preview(
        name=plan.name,
        cells=len(plan.cells),
        trials=sum(1 for _ in plan.training_runs()),
        naive_trials=sum(len(training_ancestry(plan, cell.trial)) for cell in plan.cells),
        by_kind=dict(Counter(trial.kind for trial in plan)),
        existing=sum(key in committed for key in plan.trials),
        to_run=len(fresh),
        replays=len(runs) - len(fresh),
        critical_path=critical_path(plan),
        steps=sum(unit.cost for unit in runs),
        slot_hours=hours,
        gpu_hours=None if hours is None or not gpus else hours * gpus,
        store_bytes=_store_bytes(plan, committed, pools),
    )


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


def why(plan: Plan, key: str, committed: Iterable[str]) -> str:
    """One line that says why the trial named by `key` (or a unique beginning) runs or not."""
    matches = [trial for trial in plan if trial.key.startswith(key)]
    if len(matches) != 1:
        return f"{key}: names {len(matches)} trials of this plan; give more digits of one key"
    trial, done = matches[0], set(committed)
    name = f"{trial.key[:12]} ({describe(trial)})"
    if trial.key in done:
        return f"{name} is skipped: the store has its record"
    if trial.rides and trial.rides in done:
        return f"{name} runs by replaying {trial.rides[:12]}: that run was committed without it"
    missing = [parent for parent in trial.parents if parent not in done]
    if missing:
        names = ", ".join(parent[:12] for parent in missing)
        return f"{name} runs after {names}: the store has no record of it yet"
    return f"{name} runs: the store has no record of it, and all it needs is there"


def describe(trial: Trial) -> str:
    """`train uniter-tiny easy_vqa level 3`: what a trial is, for people."""
    what: str = trial.kind
    if isinstance(trial.spec, CutSpec):
        what = f"{trial.spec.method} cut to {trial.spec.sparsity:.1%}"
    return f"{what} {trial.model} {trial.task} level {trial.level}"


def seconds_per_step(records: Iterable[Measured]) -> dict[tuple[str, str], float]:
    """Mean seconds per optimizer step, evaluation included, by (model, task) label."""
    seconds: Counter[tuple[str, str]] = Counter()
    steps: Counter[tuple[str, str]] = Counter()
    for record in records:
        if record.costs.get("steps"):
            pair = (str(record.about.get("model")), str(record.about.get("task")))
            seconds[pair] += record.costs["seconds"]  # type: ignore[assignment]
            steps[pair] += record.costs["steps"]  # type: ignore[assignment]
    return {pair: seconds[pair] / steps[pair] for pair in steps}


def _slot_hours(runs: list[Unit], records: Iterable[Measured]) -> float | None:
    """None while some (model, task) of the plan was never measured."""
    rates = seconds_per_step(records)
    if any((unit.model, unit.task) not in rates for unit in runs):
        return None
    return sum(unit.cost * rates[unit.model, unit.task] for unit in runs) / 3600


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
