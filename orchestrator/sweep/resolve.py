"""Resolve the models and tasks of a sweep to specs with content fingerprints, and to paths.

This is the only part of planning that reads data and weights. The fingerprint of a large folder is
cached with the sizes and times of its files (see `fingerprints`), so that planning again need not
read them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, MissingFile, suggest
from orchestrator.sources.names import parse_sources
from orchestrator.sweep.config import ModelConfig, PretrainedBy, Sweep, TaskConfig
from trainables.data.schema.layouts import task_files
from trainables.errors import DataError, PluginError
from trainables.models import MODELS, Format
from trainables.pruning import PRUNERS
from trainables.registry import Registry
from trainables.spec import ModelSpec, Options, Scalar, Start, TaskSpec
from trainables.tasks import TASKS
from trainables.user_modules import UserModule, install, read_user_module

FingerprintFunction = Callable[[Path, tuple[str, ...]], str]
"""Return the fingerprint of a path, or of the files below it that match the patterns; raise
FileNotFoundError if the path does not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    label: str
    spec: ModelSpec
    weights: str = ""
    """Fingerprint of the checkpoint; empty if the network is drawn from the seed."""
    fill: bool = False
    path: Path | None = None
    pretrained_by: PretrainedBy | None = None
    pools: Mapping[str, int]
    """Number of weights in each prunable pool."""

    def start(self, seed: int) -> Start:
        """Return the start of a run that uses no result of the sweep."""
        if self.weights:
            fill_seed = seed if self.fill else 0
            return Start(kind="pretrained", weights=self.weights, fill=self.fill, seed=fill_seed)
        return Start(kind="init", seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskInput:
    label: str
    spec: TaskSpec
    path: Path


@dataclass(frozen=True, slots=True)
class ResolvedInputs:
    models: dict[str, ModelInput]
    tasks: dict[str, dict[Format, TaskInput]]
    """Tasks by label and by the format that a model reads; each format has its own files."""
    pruners: dict[str, str]
    """Study -> name of its pruning method in `PRUNERS`."""
    modules: tuple[UserModule, ...]
    """The user's own files, which the workers need."""

    def locations(self) -> dict[str, str]:
        """Return a map from fingerprint to path, with which a worker finds the files."""
        tasks = (task for formats in self.tasks.values() for task in formats.values())
        paths = {task.spec.data: str(task.path) for task in tasks}
        paths |= {m.weights: str(m.path) for m in self.models.values() if m.path is not None}
        return paths


def resolve_inputs(sweep: Sweep, fingerprint: FingerprintFunction) -> ResolvedInputs:
    """Resolve every model and task that the studies name.

    Raises:
        ConfigError: a name is unknown, or a combination is not supported.
        MissingFile: data or weights do not exist.
    """
    resolver = _InputResolver(sweep, fingerprint)
    pruners = {}
    for name, study in sweep.studies.items():
        where = f"studies.{name}"
        pruners[name] = resolver.pruner(study.pruner, f"{where}.pruner")
        models = [resolver.model(label, f"{where}.model") for label in _as_list(study.model)]
        sources = parse_sources(study.tickets, study.controls, where)
        named = [(source, source.reference) for source in sources if source.reference]
        for source, (kind, label) in named:
            if kind == "model":
                models.append(resolver.model(label, source.where))
        for model in models:
            if study.pool not in model.pools:
                raise _unknown(f"{where}.pool", study.pool, model.pools)
            for label in _as_list(study.task):
                resolver.task(label, model, f"{where}.task")
            for source, (kind, label) in named:
                if kind == "task":
                    resolver.task(label, model, source.where)
    return ResolvedInputs(
        resolver.models, resolver.tasks, pruners, tuple(resolver.modules.values())
    )


def _as_list(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True, slots=True)
class _InputResolver:
    """Resolves each label once."""

    sweep: Sweep
    fingerprint: FingerprintFunction
    models: dict[str, ModelInput] = field(default_factory=dict)
    tasks: dict[str, dict[Format, TaskInput]] = field(default_factory=dict)
    modules: dict[str, UserModule] = field(default_factory=dict)
    """The user's own files by name."""

    def pruner(self, label: str, where: str) -> str:
        """Return the name in `PRUNERS` of the method that a study names."""
        if label in self.sweep.pruners:
            return self._user_module(self.sweep.pruners[label].module, f"pruners.{label}", PRUNERS)
        if label not in PRUNERS:
            raise _unknown(where, label, [*self.sweep.pruners, *PRUNERS])
        return label

    def model(self, label: str, where: str) -> ModelInput:
        if label not in self.models:
            self.models[label] = self._model(label, where)
            self._check_pretraining(self.models[label])
        return self.models[label]

    def task(self, label: str, model: ModelInput, where: str) -> None:
        entry = self._task(label, where)
        supported = TASKS[entry.task].recipes
        if model.spec.architecture not in supported:
            raise ConfigError(
                f"{where}: task {label!r} does not support {model.spec.architecture};"
                f" use a model of {', '.join(supported)}"
            )
        data_format = MODELS[model.spec.architecture].format
        inputs = self.tasks.setdefault(label, {})
        if data_format not in inputs:
            inputs[data_format] = self._task_input(label, entry, data_format)

    def _model(self, label: str, where: str) -> ModelInput:
        entry = self.sweep.models.get(label)
        if entry is None:
            architecture, _, size = label.partition("-")
            if architecture not in MODELS:
                raise _unknown(where, label, [*self.sweep.models, *MODELS])
            entry = ModelConfig(architecture=architecture, size=size or "base")
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
            source=MODELS.source_of(entry.architecture),
        )
        weights = ""
        if entry.weights is not None:
            weights = self._fingerprint(entry.weights, f"{where}.weights")
        return ModelInput(
            label=label,
            spec=spec,
            weights=weights,
            fill=entry.fill,
            path=entry.weights,
            pretrained_by=entry.pretrained_by,
            pools=registered.sizes[entry.size],
        )

    def _check_pretraining(self, model: ModelInput) -> None:
        """Check the task and recipe of the run that produces a model's theta_0."""
        if model.pretrained_by is None:
            return
        where = f"models.{model.label}.pretrained_by"
        self.task(model.pretrained_by.task, model, f"{where}.task")
        label = model.pretrained_by.recipe
        if label != "default" and label not in self.sweep.recipes:
            raise _unknown(f"{where}.recipe", label, ["default", *self.sweep.recipes])

    def _task(self, label: str, where: str) -> TaskConfig:
        """Return the entry of `tasks` with the name of its task in `TASKS`."""
        entry = self.sweep.tasks.get(label)
        if entry is None:
            if label not in TASKS:
                raise _unknown(where, label, [*self.sweep.tasks, *TASKS])
            entry = TaskConfig(task=label)
        if (entry.module is None) == (not entry.task):
            found = "both" if entry.task else "neither"
            raise ConfigError(f"tasks.{label}: has {found} of `task` and `module`; give one")
        if entry.module is not None:
            name = self._user_module(entry.module, f"tasks.{label}", TASKS)
            entry = entry.model_copy(update={"task": name})
        if entry.task not in TASKS:
            raise _unknown(f"tasks.{label}.task", entry.task, TASKS)
        for name in entry.options:
            allowed = TASKS[entry.task].options
            if name not in allowed:
                raise _unknown(f"tasks.{label}.options", name, allowed)
        return entry

    def _user_module(self, path: Path, where: str, registry: Registry[Any]) -> str:
        """Import a file of the user's, and return the name of its entry in `registry`."""
        try:
            module = read_user_module(path)
            if self.modules.setdefault(module.name, module) != module:
                raise PluginError(
                    f"{path}: another file of this sweep has the same name; rename one"
                )
            install([module])
            registry.require(module.name, module.sha256)
        except PluginError as error:
            raise ConfigError(f"{where}.module: {error}") from None
        return module.name

    def _task_input(self, label: str, entry: TaskConfig, data_format: Format) -> TaskInput:
        registered = TASKS[entry.task]
        path = entry.data or registered.shipped_data()
        if path is None:
            raise ConfigError(f"tasks.{label}.data is missing; give the folder with the data")
        options = {**registered.options, **entry.options}
        patterns = task_files(entry.task, data_format, options) if registered.published else ()
        spec = TaskSpec(
            name=entry.task,
            data=self._fingerprint(path, f"tasks.{label}.data", patterns),
            options=_options(entry.options),
            semantics=registered.semantics,
            source=TASKS.source_of(entry.task),
        )
        return TaskInput(label=label, spec=spec, path=path)

    def _fingerprint(self, path: Path, where: str, patterns: tuple[str, ...] = ()) -> str:
        try:
            return self.fingerprint(path.absolute(), patterns)
        except FileNotFoundError:
            raise MissingFile(
                f"{where} = {path} does not exist; give the path of an existing file, or plan with"
                " --offline, which counts without the files"
            ) from None
        except DataError as error:
            raise MissingFile(f"{where}: {error}") from None


def _options(values: Mapping[str, Scalar]) -> Options:
    return tuple(sorted(values.items()))


def _unknown(where: str, value: str, allowed: Iterable[str]) -> ConfigError:
    return ConfigError(f"{where} = {value!r} is not known; {suggest(value, allowed)}")
