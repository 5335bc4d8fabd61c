"""What a training run will cost: as measured, else scaled from what was, else in work alone.

Runs differ: an adversarial step is four plain ones, NLVR2 encodes two sequences per example, LXMERT
has twice UNITER's weights. So plans are weighed by cost, not by the number of runs or steps. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import median
from typing import Literal, Protocol, TypeAlias

from orchestrator.plan.graph import Plan, Trial
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
    @property
    def environment(self) -> Mapping[str, str]: ...


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


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds for one and the same thing in several runs: the slowest of the fastest tenth, the
    mean, the fastest of the slowest tenth."""

    fast: float
    mean: float
    slow: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Paces:
    """How fast the committed runs of a plan were, evaluation included, their start not."""

    kinds: Mapping[object, Spread]
    """Seconds per optimizer step, by kind of run (see `_kind`)."""
    rates: Spread
    """Seconds per unit of work, over all kinds: the fastest kind's, the median, the slowest's."""

    def cost(self, at: Literal["fast", "mean", "slow"]) -> Cost:
        """Seconds of a trial: as its kind was measured, else by its work."""
        steps: dict[object, float] = {kind: getattr(s, at) for kind, s in self.kinds.items()}
        rate: float = getattr(self.rates, at)

        def cost(trial: Trial) -> float:
            known = steps.get(_kind(trial))
            return work_of(trial) * rate if known is None else steps_of(trial) * known

        return cost

    def share(self, trials: Iterable[Trial]) -> float:
        """Share of `trials` that are of a kind that was measured."""
        known = [_kind(trial) in self.kinds for trial in trials]
        return sum(known) / len(known) if known else 1.0


def measure(plan: Plan, records: Mapping[str, Measured]) -> Paces | None:
    """The paces of the plan's committed runs; None while there is none."""
    runs: dict[object, list[Trial]] = defaultdict(list)
    for trial in plan.training_runs():
        if trial.key in records and records[trial.key].costs.get("steps"):
            runs[_kind(trial)].append(trial)
    if not runs:
        return None
    kinds = {kind: _spread([records[t.key] for t in trials]) for kind, trials in runs.items()}
    rates = []
    for kind, trials in runs.items():
        steps_per_work = steps_of(trials[0]) / work_of(trials[0])
        rates += [tuple(steps_per_work * s for s in astuple(kinds[kind]))] * len(trials)
    fast, mean, slow = zip(*rates, strict=True)
    return Paces(kinds=kinds, rates=Spread(min(fast), median(mean), max(slow)))


def seconds(plan: Plan, records: Mapping[str, Measured]) -> Cost | None:
    """Seconds of each trial of the plan at its mean pace; None while nothing was measured."""
    paces = measure(plan, records)
    return paces.cost("mean") if paces else None


def checkpoint_s(records: Iterable[Measured]) -> float | None:
    """Median over runs of what saving their state took each time; None if none ever did."""
    each = [
        record.costs["checkpoint_seconds"] / record.costs["checkpoints"]
        for record in records
        if record.costs.get("checkpoints")
    ]
    return median(each) if each else None


def _spread(records: Sequence[Measured]) -> Spread:
    """Of seconds per step; the mean weighs runs by their steps, and lies within."""
    costs = [record.costs for record in records]
    paces = sorted(cost["seconds"] / cost["steps"] for cost in costs)
    mean = sum(cost["seconds"] for cost in costs) / sum(cost["steps"] for cost in costs)
    tenth = (len(paces) - 1) // 10
    return Spread(min(paces[tenth], mean), mean, max(paces[-1 - tenth], mean))


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
