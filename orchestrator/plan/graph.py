"""The plan: the trials of a sweep as a DAG, each once, and the cells that request them.

A trial is identified by its content (see `key_of`), so two cells that need the same run share it. A
ticket pruned from a trained network and a rewind point are by-products of a training run: they are
committed with it, and if they are requested later, the run is replayed to produce them.
Pure: building and querying a plan uses no disk, no network, no Ray and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from trainables.spec import PruneSpec, TrialKind, TrialSpec

DENSE = "dense"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One node of the DAG."""

    key: str
    kind: TrialKind
    spec: TrialSpec
    parents: tuple[str, ...] = ()
    """Keys of trials that must be committed before this one starts."""
    produced_by: str = ""
    """Key of the training run that produces this ticket or rewind point; empty if the trial runs
    by itself."""
    model: str = ""
    """Label of the model in the sweep file. Labels are for display and are never hashed."""
    task: str = ""
    """Label of the task in the sweep file."""
    level: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """The identity of one line in a score-sparsity figure: all of a cell but its level."""

    study: str
    model: str
    task: str
    recipe: str
    schedule: str
    """`linear 0.1` or `geometric 0.2`: the kind and the rate."""
    rewind: int
    """Steps into the dense run; 0 is theta_0."""
    source: str
    """Where the tickets come from: a name in `orchestrator.sources.SOURCES`, with its parameter if
    it has one (`transfer:vqa`), or `dense`."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One number that the sweep requests: the score of `trial`, a training run."""

    curve: Curve
    level: int
    sparsity: float
    """Planned share of the pool that is pruned; the record of `ticket` has the exact counts."""
    trial: str
    ticket: str = ""
    """Key of the prune trial whose ticket is applied; empty for a dense run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Trials and cells of a sweep. In `trials`, every parent comes before its children."""

    name: str
    trials: Mapping[str, Trial]
    cells: tuple[Cell, ...] = field(default=())

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials.values())

    def __len__(self) -> int:
        return len(self.trials)

    def training_runs(self) -> Iterable[Trial]:
        return (trial for trial in self if trial.kind == "train")


def describe_trial(trial: Trial) -> str:
    """Describe a trial for display: `train uniter-tiny easy_vqa level 3`."""
    action: str = trial.kind
    if isinstance(trial.spec, PruneSpec):
        action = f"prune ({trial.spec.method}, {trial.spec.sparsity:.1%})"
    return f"{action} {trial.model} {trial.task} level {trial.level}"
