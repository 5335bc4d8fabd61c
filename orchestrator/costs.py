"""What a training run will cost: as measured, else scaled from what was, else in work alone.

Runs differ: an adversarial step is four plain ones, NLVR2 encodes two sequences per example, LXMERT
has twice UNITER's weights. So plans are weighed by cost, not by the number of runs or steps. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Protocol, TypeAlias

from orchestrator.plan import Plan, Trial
from trainables.models import MODELS
from trainables.spec import Recipe, TrainSpec
from trainables.tasks import TASKS

Cost: TypeAlias = Callable[[Trial], float]
"""What a trial weighs; 0 for anything but a training run."""

TOKENS = {"regions": 60, "pixels": 240}
"""Words and regions or patches of a typical sequence; only ratios between models rest on it."""


class Measured(Protocol):
    """The part of a committed trial's record that costs are read from."""

    @property
    def costs(self) -> Mapping[str, float]: ...


def steps_of(trial: Trial) -> int:
    """Optimizer steps of a training run; 0 for anything else, which trains nothing."""
    if not isinstance(trial.spec, TrainSpec):
        return 0
    return trial.spec.recipe.steps - trial.spec.first_step


def work_of(trial: Trial) -> float:
    """Prunable weights x tokens x passes, forward and backward, in units of 1e12."""
    spec = trial.spec
    if not isinstance(spec, TrainSpec):
        return 0.0
    entry = MODELS[spec.model.architecture]
    weights = max(entry.sizes[spec.model.size].values())
    recipe = spec.recipe
    sequences = TASKS[spec.task.name].sequences.get(spec.model.architecture, 1)
    tokens = recipe.tokens * recipe.accumulate
    tokens = tokens or recipe.batch_size * TOKENS[entry.modality] * sequences
    return steps_of(trial) * weights * tokens * passes(recipe) / 1e12


def passes(recipe: Recipe) -> float:
    """A forward pass counts 1 and a backward pass 2; the adversary adds such a pair for each of its
    ascents to that of the clean batch."""
    if recipe.adversary == "none":
        return 3.0
    turns = 2 if recipe.adversary == "alternate" else 1
    return 3.0 + 3.0 * turns * recipe.adversary_steps


def seconds(plan: Plan, records: Mapping[str, Measured]) -> Cost | None:
    """Seconds of each trial of the plan, from its committed runs; None while there is none.

    A run of a kind (see `_kind`) that was measured costs its mean seconds per step. Others cost
    their work at the median rate of those that were measured.
    """
    pace = _paces(plan, records)
    if not pace:
        return None
    rate = median(pace[_kind(t)] * steps_of(t) / work_of(t) for t in _measured(plan, records))

    def cost(trial: Trial) -> float:
        known = pace.get(_kind(trial))
        return work_of(trial) * rate if known is None else steps_of(trial) * known

    return cost


def measured_share(plan: Plan, records: Mapping[str, Measured], trials: Iterable[Trial]) -> float:
    """Share of `trials` that are of a kind that was measured."""
    pace = _paces(plan, records)
    known = [_kind(trial) in pace for trial in trials]
    return sum(known) / len(known) if known else 1.0


def _measured(plan: Plan, records: Mapping[str, Measured]) -> list[Trial]:
    runs = plan.training_runs()
    return [t for t in runs if t.key in records and records[t.key].costs.get("steps")]


def _paces(plan: Plan, records: Mapping[str, Measured]) -> dict[object, float]:
    """Mean seconds per optimizer step, evaluation included, by kind."""
    spent: dict[object, tuple[float, float]] = {}
    for trial in _measured(plan, records):
        costs = records[trial.key].costs
        before = spent.get(_kind(trial), (0.0, 0.0))
        spent[_kind(trial)] = before[0] + costs["seconds"], before[1] + costs["steps"]
    return {kind: total / steps for kind, (total, steps) in spent.items()}


def _kind(trial: Trial) -> object:
    """What a step's time depends on, as far as the plan knows."""
    spec = trial.spec
    if not isinstance(spec, TrainSpec):
        return None
    recipe = spec.recipe
    return (
        spec.model,
        spec.task.name,
        recipe.batch_size,
        recipe.tokens,
        recipe.accumulate,
        recipe.precision,
        recipe.compile,
        passes(recipe),
    )
