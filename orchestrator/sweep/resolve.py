"""What a sweep's models and tasks are made of: specs with content fingerprints, and the paths.

This is the edge of planning: the only place where files are read before a run. The fingerprint of
a large folder is remembered beside the tickets, under the files' sizes and times, so that planning
twice reads once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import ConfigError, MissingFile
from orchestrator.sweep.config import Model, Pretraining, Sweep, Task
from trainables.data.schema.layouts import files_of
from trainables.errors import DataError
from trainables.models import MODELS, Format
from trainables.pruning import CUTS
from trainables.spec import ModelSpec, Options, Scalar, Start, TaskSpec
from trainables.tasks import TASKS

Fingerprint = Callable[[Path, tuple[str, ...]], str]
"""Of a path, or of the files below it that match the patterns; FileNotFoundError if there is
nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    label: str
    spec: ModelSpec
    weights: str = ""
    """Fingerprint of the checkpoint; empty when the network is drawn from the seed."""
    fill: bool = False
    path: Path | None = None
    pretrained_by: Pretraining | None = None
    pools: Mapping[str, int]
    """Weights in each prunable pool."""

    def start(self, seed: int) -> Start:
        """Of a run that starts from nothing that the sweep makes."""
        if self.weights:
            drawn = seed if self.fill else 0
            return Start(kind="pretrained", weights=self.weights, fill=self.fill, seed=drawn)
        return Start(kind="init", seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskInput:
    label: str
    spec: TaskSpec
    path: Path


@dataclass(frozen=True, slots=True)
class Inputs:
    models: dict[str, ModelInput]
    tasks: dict[str, dict[Format, TaskInput]]
    """By label and by the format that a model reads: each has files of its own."""

    def locations(self) -> dict[str, str]:
        """Fingerprint to path: what a worker needs to find the files."""
        tasks = (task for formats in self.tasks.values() for task in formats.values())
        found = {task.spec.data: str(task.path) for task in tasks}
        found |= {m.weights: str(m.path) for m in self.models.values() if m.path is not None}
        return found


def read(sweep: Sweep, fingerprint: Fingerprint) -> Inputs:
    """Resolve every model and task that the studies name; ConfigError or MissingFile."""
    reader = _Reader(sweep, fingerprint)
    for name, study in sweep.studies.items():
        where = f"studies.{name}"
        if study.cut not in CUTS:
            raise _unknown(f"{where}.cut", study.cut, CUTS)
        models = [reader.model(label, f"{where}.model") for label in _listed(study.model)]
        for other in _named(study.controls, "init:"):
            models.append(reader.model(other, f"{where}.controls"))
        for model in models:
            if study.pool not in model.pools:
                raise _unknown(f"{where}.pool", study.pool, model.pools)
            for label in _listed(study.task):
                reader.task(label, model, f"{where}.task")
            for label in _named(study.tickets, "transfer:"):
                reader.task(label, model, f"{where}.tickets")
    return Inputs(reader.models, reader.tasks)


def _named(names: Iterable[str], prefix: str) -> list[str]:
    """`transfer:vqa` -> `vqa`, for the names that begin so."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Resolves labels, each once."""

    sweep: Sweep
    fingerprint: Fingerprint
    models: dict[str, ModelInput] = field(default_factory=dict)
    tasks: dict[str, dict[Format, TaskInput]] = field(default_factory=dict)

    def model(self, label: str, where: str) -> ModelInput:
        if label not in self.models:
            self.models[label] = self._model(label, where)
            self._origin(self.models[label])
        return self.models[label]

    def task(self, label: str, model: ModelInput, where: str) -> None:
        entry = _task(label, self.sweep, where)
        supported = TASKS[entry.task].recipes
        if model.spec.architecture not in supported:
            raise ConfigError(
                f"{where}: task {label!r} is not made for {model.spec.architecture};"
                f" use a model of {', '.join(supported)}"
            )
        form = MODELS[model.spec.architecture].format
        known = self.tasks.setdefault(label, {})
        if form not in known:
            known[form] = self._task_input(label, entry, form)

    def _model(self, label: str, where: str) -> ModelInput:
        entry = self.sweep.models.get(label)
        if entry is None:
            architecture, _, size = label.partition("-")
            if architecture not in MODELS:
                raise _unknown(where, label, [*self.sweep.models, *MODELS])
            entry = Model(architecture=architecture, size=size or "base")
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
            weights = self._content(entry.weights, f"{where}.weights")
        return ModelInput(
            label=label,
            spec=spec,
            weights=weights,
            fill=entry.fill,
            path=entry.weights,
            pretrained_by=entry.pretrained_by,
            pools=registered.sizes[entry.size],
        )

    def _origin(self, model: ModelInput) -> None:
        """The task and recipe of the run that makes a model's theta_0."""
        if model.pretrained_by is None:
            return
        where = f"models.{model.label}.pretrained_by"
        self.task(model.pretrained_by.task, model, f"{where}.task")
        label = model.pretrained_by.recipe
        if label != "default" and label not in self.sweep.recipes:
            raise _unknown(f"{where}.recipe", label, ["default", *self.sweep.recipes])

    def _task_input(self, label: str, entry: Task, form: Format) -> TaskInput:
        registered = TASKS[entry.task]
        path = entry.data or registered.shipped_data()
        if path is None:
            raise ConfigError(f"tasks.{label}.data is missing; give the folder with the data")
        options = {**registered.options, **entry.options}
        patterns = files_of(entry.task, form, options) if registered.published else ()
        spec = TaskSpec(
            name=entry.task,
            data=self._content(path, f"tasks.{label}.data", patterns),
            options=_options(entry.options),
            semantics=registered.semantics,
        )
        return TaskInput(label=label, spec=spec, path=path)

    def _content(self, path: Path, where: str, patterns: tuple[str, ...] = ()) -> str:
        try:
            return self.fingerprint(path.absolute(), patterns)
        except FileNotFoundError:
            raise MissingFile(
                f"{where} = {path} is not there; give the path of an existing file, or plan with"
                " --offline, which counts without the files"
            ) from None
        except DataError as error:
            raise MissingFile(f"{where}: {error}") from None


def _task(label: str, sweep: Sweep, where: str) -> Task:
    entry = sweep.tasks.get(label)
    if entry is None:
        if label not in TASKS:
            raise _unknown(where, label, [*sweep.tasks, *TASKS])
        entry = Task(task=label)
    if entry.task not in TASKS:
        raise _unknown(f"tasks.{label}.task", entry.task, TASKS)
    for name in entry.options:
        known = TASKS[entry.task].options
        if name not in known:
            raise _unknown(f"tasks.{label}.options", name, known)
    return entry


def _options(values: Mapping[str, Scalar]) -> Options:
    return tuple(sorted(values.items()))


def _unknown(where: str, value: str, known: Iterable[str]) -> ConfigError:
    known = list(known)
    near = difflib.get_close_matches(value, known, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known) or 'none'}"
    return ConfigError(f"{where} = {value!r} is not known; {cure}")
