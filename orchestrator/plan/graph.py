"""The plan: the trials of a sweep as a DAG, each once, and the cells that ask for them.

A trial is identified by its content (see `identity`), so two cells that need the same run share
it. A cut of a trained network and a rewind point *ride* the training run that makes them: they are
committed with it, and if they are wanted only later, that run is replayed for them.
Pure: building and asking a plan touches no disk, no network, no Ray and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from trainables.spec import CutSpec, Kind, TrialSpec

DENSE = "dense"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One node of the DAG."""

    key: str
    kind: Kind
    spec: TrialSpec
    parents: tuple[str, ...] = ()
    """Keys of trials that must be committed before this one starts."""
    rides: str = ""
    """Key of the training run that makes this cut or rewind point; empty if it stands alone."""
    model: str = ""
    """Label of the model in the sweep file, and likewise below: for people, never hashed."""
    task: str = ""
    level: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What one line of a score-sparsity figure stands for: everything of a cell but its level."""

    study: str
    model: str
    task: str
    recipe: str
    schedule: str
    """`linear 10%` or `geometric 20%`."""
    rewind: int
    """Steps into the dense run; 0 is theta_0."""
    source: str
    """Where the tickets come from: `dense`, `imp`, `random`, `random_layerwise`, `reinit`,
    `shuffle_within`, `shuffle_across`, `omp`, or `transfer:TASK`."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One number that the sweep asks for: the score of `trial`, a training run."""

    curve: Curve
    level: int
    sparsity: float
    """Planned share of the pool that is pruned; the record of `ticket` has the exact counts."""
    trial: str
    ticket: str = ""
    """Key of the cut that the run wears; empty when dense."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`trials` is in an order in which every parent stands before its children."""

    name: str
    trials: Mapping[str, Trial]
    cells: tuple[Cell, ...] = field(default=())

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials.values())

    def __len__(self) -> int:
        return len(self.trials)

    def training_runs(self) -> Iterable[Trial]:
        return (trial for trial in self if trial.kind == "train")


def describe(trial: Trial) -> str:
    """`train uniter-tiny easy_vqa level 3`: what a trial is, for people."""
    what: str = trial.kind
    if isinstance(trial.spec, CutSpec):
        what = f"{trial.spec.method} cut to {trial.spec.sparsity:.1%}"
    return f"{what} {trial.model} {trial.task} level {trial.level}"
