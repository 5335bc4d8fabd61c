"""Weigh training runs by cost: seconds as measured, else seconds scaled by work, else work alone.

Runs differ: an adversarial step costs four plain ones, NLVR2 encodes two sequences per example,
LXMERT has twice UNITER's weights. Plans are therefore weighed by cost, not by the number of runs or
steps. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from statistics import median
from typing import Literal, Protocol, TypeAlias

from orchestrator.plan.graph import Plan, Trial
from trainables.models import MODELS, pool_sizes
from trainables.spec import ModelSpec, Recipe, TrainSpec
from trainables.tasks import sequences_per_example

CostFunction: TypeAlias = Callable[[Trial], float]
"""Return the cost of a trial; 0 for anything but a training run."""

TOKENS_OF_LIMIT = {"full": 0.95, "uniter": 0.40}
"""Tokens of a micro-batch, with padding, over the recipe's `tokens`, by `token_batches`: as counted
on lengths like VQA's (`tests/benchmarks/batches.py`)."""
TOKENS_PER_SEQUENCE = {"regions": 60, "pixels": 240}
"""Words and regions or patches of a typical sequence; only ratios between models depend on it."""


class MeasuredRecord(Protocol):
    """The part of a committed trial's record that costs are read from."""

    @property
    def costs(self) -> Mapping[str, float]: ...
    @property
    def environment(self) -> Mapping[str, str]: ...


def steps_of(trial: Trial) -> int:
    """Return the optimizer steps of a training run; 0 for a trial that trains nothing."""
    if not isinstance(trial.spec, TrainSpec):
        return 0
    return trial.spec.recipe.steps - trial.spec.first_step


def work_of(trial: Trial) -> float:
    """Return prunable weights x tokens x passes, forward and backward, in units of 1e12.

    Evaluations are left out, because a plan does not know the number of held-out examples.
    Measured seconds include them.
    """
    spec = trial.spec
    if not isinstance(spec, TrainSpec):
        return 0.0
    modality = MODELS[spec.model.architecture].modality
    weights = _largest_pool(spec.model)
    recipe = spec.recipe
    sequences = sequences_per_example(spec.task.name, spec.model.architecture)
    tokens = recipe.tokens * recipe.accumulate * TOKENS_OF_LIMIT[recipe.token_batches]
    tokens = tokens or recipe.batch_size * TOKENS_PER_SEQUENCE[modality] * sequences
    return steps_of(trial) * weights * tokens * passes_per_step(recipe) / 1e12


@lru_cache
def _largest_pool(model: ModelSpec) -> int:
    """A plan of 33,000 runs has a few models; a configuration takes 10 µs to check and count."""
    return max(pool_sizes(model).values())


def passes_per_step(recipe: Recipe) -> float:
    """Return the passes of one step: a forward pass counts 1, a backward pass 2.

    An adversary adds such a pair for each of its ascent steps to the pair of the clean batch.
    """
    if recipe.adversary == "none":
        return 3.0
    turns = 2 if recipe.adversary == "alternate" else 1
    return 3.0 + 3.0 * turns * recipe.adversary_steps


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds (per step or per unit of work) of fast, average and slow runs: in several runs of a
    kind roughly the 10th percentile, the mean and the 90th percentile."""

    fast: float
    mean: float
    slow: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Measured times of a plan's committed runs, evaluation included, process start excluded."""

    seconds_per_step: Mapping[object, Timing]
    """Seconds per optimizer step, by kind of run (see `_run_kind`)."""
    seconds_per_work: Timing
    """Seconds per unit of work over all kinds: the fastest kind's, the median, the slowest's."""

    def cost(self, speed: Literal["fast", "mean", "slow"]) -> CostFunction:
        """Return a cost in seconds: as measured on runs of a trial's kind, else scaled by work."""
        step_s: dict[object, float] = {
            kind: getattr(measured, speed) for kind, measured in self.seconds_per_step.items()
        }
        work_s: float = getattr(self.seconds_per_work, speed)

        def cost(trial: Trial) -> float:
            measured = step_s.get(_run_kind(trial))
            return work_of(trial) * work_s if measured is None else steps_of(trial) * measured

        return cost

    def measured_share(self, trials: Iterable[Trial]) -> float:
        """Return the share of `trials` whose kind was measured."""
        measured = [_run_kind(trial) in self.seconds_per_step for trial in trials]
        return sum(measured) / len(measured) if measured else 1.0


def measure_throughput(plan: Plan, records: Mapping[str, MeasuredRecord]) -> Throughput | None:
    """Return the throughput of the plan's committed runs; None if there are none."""
    runs: dict[object, list[Trial]] = defaultdict(list)
    for trial in plan.training_runs():
        if trial.key in records and records[trial.key].costs.get("steps"):
            runs[_run_kind(trial)].append(trial)
    if not runs:
        return None
    step_s = {kind: _percentiles([records[t.key] for t in trials]) for kind, trials in runs.items()}
    work_s = []
    for kind, trials in runs.items():
        steps_per_work = steps_of(trials[0]) / work_of(trials[0])
        work_s += [tuple(steps_per_work * s for s in astuple(step_s[kind]))] * len(trials)
    fast, mean, slow = zip(*work_s, strict=True)
    return Throughput(
        seconds_per_step=step_s,
        seconds_per_work=Timing(min(fast), median(mean), max(slow)),
    )


def trial_seconds(plan: Plan, records: Mapping[str, MeasuredRecord]) -> CostFunction | None:
    """Return a cost in mean seconds for the trials of the plan; None if nothing was measured."""
    throughput = measure_throughput(plan, records)
    return throughput.cost("mean") if throughput else None


def median_checkpoint_s(records: Iterable[MeasuredRecord]) -> float | None:
    """Return the median over runs of the seconds per checkpoint; None if no run saved any."""
    seconds = [
        record.costs["checkpoint_seconds"] / record.costs["checkpoints"]
        for record in records
        if record.costs.get("checkpoints")
    ]
    return median(seconds) if seconds else None


def _percentiles(records: Sequence[MeasuredRecord]) -> Timing:
    """Return seconds per step. The mean weighs runs by their steps and is kept within the range."""
    costs = [record.costs for record in records]
    step_s = sorted(cost["seconds"] / cost["steps"] for cost in costs)
    mean = sum(cost["seconds"] for cost in costs) / sum(cost["steps"] for cost in costs)
    tenth = (len(step_s) - 1) // 10
    return Timing(min(step_s[tenth], mean), mean, max(step_s[-1 - tenth], mean))


def _run_kind(trial: Trial) -> object:
    """Return what the time of a step depends on, as far as the plan knows."""
    spec = trial.spec
    if not isinstance(spec, TrainSpec):
        return None
    recipe = spec.recipe
    return (
        spec.model,
        spec.task.name,
        recipe.batch_size,
        recipe.tokens,
        recipe.token_batches,
        recipe.accumulate,
        recipe.eval_every,
        recipe.eval_examples,
        recipe.precision,
        recipe.compile,
        passes_per_step(recipe),
    )
