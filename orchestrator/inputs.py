"""What a sweep's models and tasks are made of: specs with content fingerprints, and the paths.

This is the edge of planning: the only place where files are read before a run. The fingerprint of
a large folder is remembered beside the tickets, under the files' sizes and times, so that planning
twice reads once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Model, Sweep, Task
from orchestrator.errors import ConfigError, MissingFile
from trainables.models import MODELS
from trainables.pruning import CUTS
from trainables.spec import ModelSpec, Options, Scalar, Start, TaskSpec
from trainables.tasks import TASKS

Fingerprint = Callable[[Path], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    label: str
    spec: ModelSpec
    weights: str = ""
    """Fingerprint of the checkpoint; empty when the network is drawn from the seed."""
    path: Path | None = None
    pools: Mapping[str, int]
    """Weights in each prunable pool."""

    def start(self, seed: int) -> Start:
        if self.weights:
            return Start(kind="pretrained", weights=self.weights)
        return Start(kind="init", seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskInput:
    label: str
    spec: TaskSpec
    path: Path


@dataclass(frozen=True, slots=True)
class Inputs:
    models: dict[str, ModelInput]
    tasks: dict[str, TaskInput]

    def locations(self) -> dict[str, str]:
        """Fingerprint to path: what a worker needs to find the files."""
        found = {task.spec.data: str(task.path) for task in self.tasks.values()}
        found |= {m.weights: str(m.path) for m in self.models.values() if m.path is not None}
        return found


def read(sweep: Sweep, fingerprint: Fingerprint) -> Inputs:
    """Resolve every model and task that the studies name; ConfigError or MissingFile."""
    models: dict[str, ModelInput] = {}
    tasks: dict[str, TaskInput] = {}
    for name, study in sweep.studies.items():
        where = f"studies.{name}"
        if study.cut not in CUTS:
            raise _unknown(f"{where}.cut", study.cut, CUTS)
        for label in _listed(study.model):
            models.setdefault(label, _model(label, sweep, fingerprint, where))
        transferred = [t.partition(":")[2] for t in study.tickets if t.startswith("transfer:")]
        for label in [*_listed(study.task), *transferred]:
            tasks.setdefault(label, _task(label, sweep, fingerprint, where))
        _check_pairs(models, tasks, _listed(study.model), _listed(study.task), study.pool, where)
    return Inputs(models, tasks)


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def _model(label: str, sweep: Sweep, fingerprint: Fingerprint, where: str) -> ModelInput:
    entry = sweep.models.get(label)
    if entry is None:
        architecture, _, size = label.partition("-")
        if architecture not in MODELS:
            raise _unknown(f"{where}.model", label, [*sweep.models, *MODELS])
        entry = Model(architecture=architecture, size=size or "base")
        where = f"{where}.model"
    else:
        where = f"models.{label}"
    if entry.architecture not in MODELS:
        raise _unknown(f"{where}.architecture", entry.architecture, MODELS)
    registered = MODELS[entry.architecture]
    if entry.size not in registered.sizes:
        raise _unknown(f"{where}.size", entry.size, registered.sizes)
    for name in entry.overrides:
        if name not in registered.settings:
            raise _unknown(f"{where}.overrides", name, registered.settings)
    spec = ModelSpec(
        architecture=entry.architecture,
        size=entry.size,
        overrides=_options(entry.overrides),
        semantics=registered.semantics,
    )
    weights = ""
    if entry.weights is not None:
        weights = _fingerprint(entry.weights, f"{where}.weights", fingerprint)
    return ModelInput(
        label=label,
        spec=spec,
        weights=weights,
        path=entry.weights,
        pools=registered.sizes[entry.size],
    )


def _task(label: str, sweep: Sweep, fingerprint: Fingerprint, where: str) -> TaskInput:
    entry = sweep.tasks.get(label)
    if entry is None:
        if label not in TASKS:
            raise _unknown(f"{where}.task", label, [*sweep.tasks, *TASKS])
        entry = Task(task=label)
    if entry.task not in TASKS:
        raise _unknown(f"tasks.{label}.task", entry.task, TASKS)
    registered = TASKS[entry.task]
    path = entry.data or registered.shipped_data()
    if path is None:
        raise ConfigError(f"tasks.{label}.data is missing; give the folder with the data")
    spec = TaskSpec(
        name=entry.task,
        data=_fingerprint(path, f"tasks.{label}.data", fingerprint),
        options=_options(entry.options),
        semantics=registered.semantics,
    )
    return TaskInput(label=label, spec=spec, path=path)


def _options(values: Mapping[str, Scalar]) -> Options:
    return tuple(sorted(values.items()))


def _fingerprint(path: Path, where: str, fingerprint: Fingerprint) -> str:
    if not path.exists():
        raise MissingFile(f"{where} = {path} is not there; give the path of an existing file")
    return fingerprint(path.absolute())


def _check_pairs(
    models: Mapping[str, ModelInput],
    tasks: Mapping[str, TaskInput],
    study_models: Iterable[str],
    study_tasks: Iterable[str],
    pool: str,
    where: str,
) -> None:
    for model in (models[label] for label in study_models):
        if pool not in model.pools:
            raise _unknown(f"{where}.pool", pool, model.pools)
        for task in (tasks[label] for label in study_tasks):
            supported = TASKS[task.spec.name].recipes
            if model.spec.architecture not in supported:
                raise ConfigError(
                    f"{where}: task {task.label!r} is not made for {model.spec.architecture};"
                    f" use a model of {', '.join(supported)}"
                )


def _unknown(where: str, value: str, known: Iterable[str]) -> ConfigError:
    known = list(known)
    near = difflib.get_close_matches(value, known, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
    return ConfigError(f"{where} = {value!r} is not known; {cure}")
