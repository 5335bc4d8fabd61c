"""From the names in a sweep file to the models, tasks, recipes and pruning methods that they name.

This is the only part of planning that reads data and weights. The fingerprint of a large folder,
and what the headers of its files tell, are cached with the sizes and times of its files (see
`fingerprints`), so that planning again need not read them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, MissingFile, suggest
from orchestrator.sweep.config import ModelConfig, PretrainedBy, Study, Sweep, TaskConfig
from orchestrator.sweep.fingerprints import HeaderReader
from trainables.check import check_format, check_recipe_for
from trainables.data.formats import (
    FORMATS,
    Layout,
    choose_format,
    default_format,
    resolve_layout,
    task_files,
)
from trainables.data.reference import DataReference, LocalData, data_reference
from trainables.data.sizes import DataSizes, check_sizes
from trainables.errors import DataError, PluginError, RecipeError, TrainableError
from trainables.models import MODELS, check_model, extended_spec, model_config, pool_sizes
from trainables.pruning import PRUNERS
from trainables.spec import ModelSpec, Options, Recipe, Scalar, Start, TaskSpec
from trainables.tasks import (
    TASKS,
    check_files,
    default_recipe,
    embedding_extensions,
    resolve_options,
)
from trainables.training.recipe import changed_recipe
from trainables.user_modules import UserModule, install, read_user_module

DEFAULT_RECIPE = "default"
"""The name of a task's own recipe for a model."""

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

    def pool(self, study: Study) -> str:
        """Return the pool that a study prunes."""
        return study.pool or MODELS[self.spec.architecture].pool

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
    reference: DataReference


@dataclass(frozen=True, slots=True)
class Resolver:
    """Turns the names in a sweep into specs and paths, each once, when it is first asked for.

    What it returns passes the checks that a worker makes before it runs a trial: they are the same
    functions, whose errors become errors of the sweep's keys. Every method takes `where`, the key
    that has the name, for messages.

    It first imports the user's own files, whose parts the names may stand for. Its methods raise
    ConfigError for a name that is unknown or cannot be used, and MissingFile for data or weights
    that do not exist.
    """

    sweep: Sweep
    fingerprint: FingerprintFunction
    headers: HeaderReader | None = None
    """Reads the headers of data and weights; None leaves them unread."""
    models: dict[str, ModelInput] = field(default_factory=dict)
    """The models that were asked for, by label."""
    _tasks: dict[tuple[str, str], TaskInput] = field(default_factory=dict)
    """Tasks by label and by the architecture of a model, since each format has its own files."""
    _sizes: dict[tuple[str, str], DataSizes] = field(default_factory=dict)
    """What the headers of a task's data tell, by the same keys."""
    _recipes: dict[tuple[str, str, str], Recipe] = field(default_factory=dict)
    """Recipes by label, by the name of the task and by the architecture."""
    _modules: dict[str, UserModule] = field(default_factory=dict)
    """The user's own files by name."""

    def __post_init__(self) -> None:
        """Import the user's own files, so that the sweep can name each part of them, in any
        place."""
        for index, path in enumerate(self.sweep.modules):
            self._install(path, f"modules[{index}]")
        for section, registry in (("models", MODELS), ("tasks", TASKS), ("pruners", PRUNERS)):
            for label, entry in getattr(self.sweep, section).items():
                if entry.module is not None:
                    where = f"{section}.{label}.module"
                    module = self._install(entry.module, where)
                    with refused(where):
                        registry.require(module.name, module.sha256)

    @property
    def modules(self) -> tuple[UserModule, ...]:
        """The user's own files, which the workers need."""
        return tuple(self._modules.values())

    def locations(self) -> dict[str, str]:
        """Return a map from fingerprint to path, with which a worker finds the files."""
        paths = {task.spec.data: str(task.reference) for task in self._tasks.values()}
        paths |= {m.weights: str(m.path) for m in self.models.values() if m.path is not None}
        return paths

    def model(self, label: str, where: str) -> ModelInput:
        """Return the model with this label in `models`, or of this architecture and size."""
        if label not in self.models:
            with refused(f"{where} = {label!r}"):
                self.models[label] = self._model(label, where)
        return self.models[label]

    def task(self, label: str, model: ModelInput, where: str) -> TaskInput:
        """Return the task with this label in `tasks`, or of this name, on the data for `model`."""
        key = (label, model.spec.architecture)
        if key not in self._tasks:
            with refused(f"{where} = {label!r}"):
                self._tasks[key] = self._task(label, model, where)
        if key in self._sizes:
            task = self._tasks[key]
            with refused(f"{where} = {label!r}, model {model.label}"):
                extensions = embedding_extensions(task.spec.name, model.spec.architecture)
                config = model_config(extended_spec(model.spec, extensions))
                check_sizes(self._sizes[key], config, task.reference)
        return self._tasks[key]

    def recipe(self, label: str, model: ModelInput, task: TaskInput, where: str) -> Recipe:
        """Return the task's own recipe for the model, with the changes of `recipes`."""
        key = (label, task.spec.name, model.spec.architecture)
        if key not in self._recipes:
            with refused(f"{where} = {label!r}"):
                self._recipes[key] = self._recipe(label, model, task, where)
        return self._recipes[key]

    def pruner(self, label: str, where: str) -> str:
        """Return the name in `PRUNERS` of the method with this label in `pruners`, or this name."""
        if label in self.sweep.pruners:
            return self.sweep.pruners[label].module.stem
        if label not in PRUNERS:
            raise _unknown(where, label, [*self.sweep.pruners, *PRUNERS])
        with refused(f"{where} = {label!r}"):
            PRUNERS[label]
        return label

    def _model(self, label: str, where: str) -> ModelInput:
        entry = self.sweep.models.get(label)
        if entry is None:
            entry = self._unlabelled_model(label, where)
        else:
            where = f"models.{label}"
        if entry.module is not None:
            entry = entry.model_copy(update={"architecture": entry.module.stem})
        if entry.architecture not in MODELS:
            raise _unknown(f"{where}.architecture", entry.architecture, MODELS)
        if entry.size not in MODELS[entry.architecture].sizes:
            raise _unknown(f"{where}.size", entry.size, MODELS[entry.architecture].sizes)
        spec = model_spec(entry)
        with refused(f"{where}.overrides"):
            check_model(spec)
            pools = pool_sizes(spec)
        weights = ""
        if entry.weights is not None:
            if entry.weights.is_dir():
                raise ConfigError(
                    f"{where}.weights = {entry.weights} is a folder; give the checkpoint file in it"
                )
            weights = self._fingerprint(LocalData(entry.weights), f"{where}.weights")
            with refused(f"{where}.weights"):
                self._check_weights(spec, entry.weights, fill=entry.fill)
        return ModelInput(
            label=label,
            spec=spec,
            weights=weights,
            fill=entry.fill,
            path=entry.weights,
            pretrained_by=entry.pretrained_by,
            pools=pools,
        )

    def _check_weights(self, model: ModelSpec, path: Path, *, fill: bool) -> None:
        """Raise CheckpointError if the header of a weights file does not fit the model."""
        if self.headers is None:
            return

        def read() -> bool:
            from trainables.headers import check_weights

            check_weights(model, path, fill=fill)
            return True

        self.headers(path.absolute(), (), f"weights of {model}, fill {fill}", read)

    def _read_sizes(self, root: Path, data_format: str, layout: Layout) -> DataSizes:
        """Return what the headers of a task's data tell; raise DataError if they are damaged."""
        assert self.headers is not None

        def read() -> dict[str, Any]:
            from trainables.headers import read_data_sizes

            return asdict(read_data_sizes(root, data_format, layout))

        purpose = f"data in the format {data_format} {FORMATS.source_of(data_format)}, {layout}"
        found = self.headers(root.absolute(), layout.files(), purpose, read)
        return DataSizes(**found | {"region_dims": tuple(found["region_dims"])})

    def _unlabelled_model(self, label: str, where: str) -> ModelConfig:
        """Return the entry that an architecture with an optional size stands for."""
        if label in MODELS:
            return ModelConfig(architecture=label)
        architecture, _, size = label.rpartition("-")
        if architecture not in MODELS or size not in MODELS[architecture].sizes:
            models = MODELS.loadable().items()
            sizes = [f"{name}-{size}" for name, model in models for size in model.sizes]
            raise _unknown(where, label, [*self.sweep.models, *MODELS, *sizes])
        return ModelConfig(architecture=architecture, size=size)

    def _task(self, label: str, model: ModelInput, where: str) -> TaskInput:
        entry = self._task_entry(label, where)
        architecture = model.spec.architecture
        default_recipe(entry.task, architecture)
        location = entry.data or TASKS[entry.task].shipped_data()
        if location is None:
            raise ConfigError(f"tasks.{label}.data is missing; give the folder with the data")
        with refused(f"tasks.{label}.data"):
            reference = data_reference(location)
        spec = task_spec(entry)
        if entry.format != default_format(entry.task, architecture):
            spec = replace(spec, format=entry.format or "")
        with refused(f"tasks.{label}.format"):
            check_format(spec, model.spec)
        with refused(f"tasks.{label}.options"):
            options = resolve_options(spec)
            patterns: tuple[str, ...] = ()
            if TASKS[entry.task].published:
                data_format = choose_format(entry.task, architecture, spec.format)
                patterns = task_files(entry.task, data_format, options)
        if patterns and isinstance(reference, LocalData) and reference.path.is_file():
            raise ConfigError(
                f"tasks.{label}.data = {reference} is a file; give the folder of the data"
            )
        data = self._fingerprint(reference, f"tasks.{label}.data", patterns)
        if self.headers is not None and isinstance(reference, LocalData):
            with refused(f"tasks.{label}.data"):
                check_files(entry.task, reference.path)
                if patterns:
                    layout = resolve_layout(entry.task, data_format, options)
                    sizes = self._read_sizes(reference.path, data_format, layout)
                    self._sizes[label, architecture] = sizes
        return TaskInput(label=label, spec=replace(spec, data=data), reference=reference)

    def _task_entry(self, label: str, where: str) -> TaskConfig:
        """Return the entry of `tasks` with the name of its task in `TASKS`."""
        entry = self.sweep.tasks.get(label)
        if entry is None:
            if label not in TASKS:
                raise _unknown(where, label, [*self.sweep.tasks, *TASKS])
            entry = TaskConfig(task=label)
        if entry.module is not None:
            entry = entry.model_copy(update={"task": entry.module.stem})
        if entry.task not in TASKS:
            raise _unknown(f"tasks.{label}.task", entry.task, TASKS)
        return entry

    def _recipe(self, label: str, model: ModelInput, task: TaskInput, where: str) -> Recipe:
        if label != DEFAULT_RECIPE and label not in self.sweep.recipes:
            raise _unknown(where, label, [DEFAULT_RECIPE, *self.sweep.recipes])
        recipe = default_recipe(task.spec.name, model.spec.architecture)
        try:
            if label != DEFAULT_RECIPE:
                recipe = changed_recipe(recipe, self.sweep.recipe_changes(label))
            check_recipe_for(recipe, model.spec, task.spec, self.sweep.placement.workers)
        except RecipeError as error:
            if label == DEFAULT_RECIPE:
                raise ConfigError(f"{where} = {label!r}: {error}") from None
            # The text begins with the field: `recipe.steps = …`.
            raise ConfigError(f"recipes.{label}{str(error).removeprefix('recipe')}") from None
        return recipe

    def _install(self, path: Path, where: str) -> UserModule:
        """Import a file of the user's, and add its entries to their registries."""
        with refused(where):
            module = read_user_module(path)
            if self._modules.setdefault(module.name, module) != module:
                raise PluginError(
                    f"{path}: another file of this sweep has the same name; rename one"
                )
            install([module])
        return module

    def _fingerprint(self, data: DataReference, where: str, patterns: tuple[str, ...] = ()) -> str:
        try:
            return data.fingerprint(patterns, self.fingerprint)
        except FileNotFoundError:
            raise MissingFile(
                f"{where} = {data} does not exist; give the path of an existing file, or plan with"
                " --offline, which counts without the files"
            ) from None
        except DataError as error:
            raise MissingFile(f"{where}: {error}") from None


def model_spec(entry: ModelConfig) -> ModelSpec:
    """Return the spec of an entry of `models`, whose architecture is known."""
    return ModelSpec(
        architecture=entry.architecture,
        size=entry.size,
        overrides=_options(entry.overrides),
        semantics=MODELS[entry.architecture].semantics,
        source=MODELS.source_of(entry.architecture),
    )


def task_spec(entry: TaskConfig) -> TaskSpec:
    """Return the spec of an entry of `tasks`, whose task is known, still without data."""
    return TaskSpec(
        name=entry.task,
        data="",
        options=_options(entry.options),
        semantics=TASKS[entry.task].semantics,
        source=TASKS.source_of(entry.task),
    )


@contextmanager
def refused(where: str) -> Iterator[None]:
    """Turn the error of a worker's check into one of the sweep's key `where`."""
    try:
        yield
    except TrainableError as error:
        raise ConfigError(f"{where}: {error}") from None


def _options(values: Mapping[str, Scalar]) -> Options:
    return tuple(sorted(values.items()))


def _unknown(where: str, value: str, allowed: Iterable[str]) -> ConfigError:
    return ConfigError(f"{where} = {value!r} is not known; {suggest(value, allowed)}")
