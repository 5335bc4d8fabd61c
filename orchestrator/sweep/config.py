"""The keys of a sweep file, their types and their defaults (`Sweep.from_file` reads one).

`studies` and what they refer to (`models`, `tasks`, `recipes`) decide the results and the trial
keys. `placement` says where and how trials run and never affects a key. `win` is the rule by which
the report decides which tickets win. Paths in `models` and `tasks` are replaced by fingerprints
before anything is hashed.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    Self,
    TypeAlias,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from cluster.addresses import Endpoint, StoreUrl, Tracking
from orchestrator.errors import ConfigError
from orchestrator.sweep.yaml_file import explain_validation_error, load_yaml, validate
from trainables.data.reference import is_remote
from trainables.spec import Count, CountOrZero, Factors, Positive, Recipe, Scalar

AXES = ("model", "task", "recipe", "schedule", "rewind", "seed")
AxisValues: TypeAlias = Mapping[str, Any]
"""One value per axis."""


class StrictModel(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,  # they become the descriptions in the JSON schema
    )

    def __init__(self, **values: Any) -> None:
        """Create the object from keyword arguments. Raises ConfigError for an invalid one."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            message = explain_validation_error(error, type(self), values)
            raise ConfigError(message.removeprefix(": ")) from None

    # Otherwise pydantic calls `__init__` for each object inside another one as well, and an error
    # there would not say where it is.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


def _expanded(path: Path) -> Path:
    try:
        return Path(os.path.expandvars(path.expanduser())).absolute()
    except RuntimeError:
        raise PydanticCustomError("home", "it must name a user of this machine after `~`") from None


Location: TypeAlias = Annotated[Path, Field(strict=False), AfterValidator(_expanded)]
"""A path in which `~` is the home folder and `$NAME` an environment variable. A relative path is
made absolute from the folder in which the command runs, since workers run in other folders."""


def _expanded_data(data: str) -> str:
    return data if is_remote(data) else str(_expanded(Path(data)))


DataLocation: TypeAlias = Annotated[
    str,
    BeforeValidator(lambda data: str(data) if isinstance(data, Path) else data),
    AfterValidator(_expanded_data),
]
"""A path like a `Location`, or a remote reference such as `hf://NAME@REVISION`."""


def _check_one_of(values: Mapping[str, object]) -> None:
    """Check that exactly one of the values, by key, is given."""
    given = [key for key, value in values.items() if value]
    if len(given) != 1:
        found = "neither" if not given else "both"
        keys = " and ".join(f"`{key}`" for key in values)
        raise ValueError(f": has {found} of {keys}; give one")


class PretrainedBy(StrictModel):
    """The training run of this sweep whose final weights are a model's theta_0."""

    task: str
    """Task of the run that pre-trains the model: a label in `tasks`, or the name of a task."""
    recipe: str = "default"
    """Recipe of the run that pre-trains the model: a label in `recipes`, or `default`, the task's
    own recipe for the model."""
    seed: CountOrZero = 0
    """Seed of the run that pre-trains the model: it draws the initial weights and the task head,
    and orders the examples."""


class ModelConfig(StrictModel):
    """One entry of `models`: an architecture and its initial weights, theta_0."""

    architecture: str = ""
    """Architecture of the model: `uniter`, `lxmert` or `vilt`, or one from outside the package.
    Leave it out if `module` is given."""
    module: Location | None = None
    """Python file with a model of your own, which binds `MODEL`. Its source is part of the trials'
    keys, so a changed file runs them again."""
    size: str = "base"
    """Size of the model: `tiny` or `base`, for `uniter` also `large`."""
    weights: Location | None = None
    """Checkpoint file to read the initial weights from; by default they are drawn at random."""
    fill: bool = False
    """Whether to draw at random the weights that the checkpoint lacks (BERT's has no image
    embeddings). By default, a checkpoint that lacks any is refused."""
    pretrained_by: PretrainedBy | None = None
    """Training run of this sweep whose final weights are theta_0. By default, theta_0 is read from
    `weights` or drawn at random."""
    overrides: dict[str, Scalar] = {}
    """Configuration values that differ from those of the size, such as `{num_hidden_layers: 1}`;
    by default none."""

    @model_validator(mode="after")
    def _check_module(self) -> Self:
        _check_one_of({"architecture": self.architecture, "module": self.module})
        return self


class TaskConfig(StrictModel):
    """One entry of `tasks`: a task and its data."""

    task: str = ""
    """Name of the task: `easy_vqa`, `vqa`, `gqa`, `vcr`, `nlvr2`, `snli_ve`, `refcoco`, `retrieval`
    or `pretraining`, or one from outside the package. Leave it out if `module` is given."""
    module: Location | None = None
    """Python file with a task of your own, which binds `TASK`. Its source is part of the trials'
    keys, so a changed file runs them again."""
    data: DataLocation | None = None
    """Folder with the data of the task, or `SCHEME://NAME@REVISION` with a scheme from outside
    the package. Only `easy_vqa` has a default: the data in its Python package."""
    format: str | None = None
    """Format of the data, such as `uniter`. By default, the first of the model's own formats in
    which the task was published; another one must hold what the model reads, regions or pixels."""
    options: dict[str, Scalar] = {}
    """Options of the task, such as `{blind: true}`, which hides the images; by default the task's
    own."""

    @model_validator(mode="after")
    def _check_module(self) -> Self:
        _check_one_of({"task": self.task, "module": self.module})
        return self


class PrunerConfig(StrictModel):
    """One entry of `pruners`: a pruning method of your own."""

    module: Location
    """Python file with the method, which binds `PRUNER`. Its source is part of the trials' keys, so
    a changed file runs them again."""


class Schedule(StrictModel):
    """How much of the pool each level prunes."""

    kind: Literal["linear", "geometric"] = "linear"
    """What `rate` refers to: `linear` prunes `rate` of the original pool per level (10, 20, 30 %,
    as VLT reports); `geometric` prunes `rate` of the weights that remain (20, 36, 48.8 %, as
    CV-LTH)."""
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of weights that each level prunes, between 0 and 1, both excluded."""
    levels: Annotated[CountOrZero, Field(le=1000)] = 9
    """Number of times a chain prunes, 0 to 1000; 0 trains the dense network only."""

    def sparsity(self, level: int) -> float:
        """Return the share of the pool that is pruned at `level`, rounded so that 3 x 0.1 is
        0.3."""
        if self.kind == "linear":
            return round(level * self.rate, 12)
        return round(1 - (1 - self.rate) ** level, 12)

    def label(self) -> str:
        return f"{self.kind} {self.rate:.4g}"

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if self.sparsity(self.levels) >= 1:
            levels = range(self.levels + 1)
            most = bisect.bisect_left(levels, 1.0, key=self.sparsity) - 1
            raise ValueError(
                f"levels = {self.levels} would prune everything; use {most} or less at rate"
                f" {self.rate:g}"
            )
        return self


def _hint_in_file(hint: Any) -> Any:
    """Return the type in a sweep file of a recipe's field: a list for a tuple, a mapping for
    pairs."""
    if hint == Factors:
        return dict[str, Positive]
    if get_origin(hint) is tuple:
        return list[get_args(hint)[0]]  # type: ignore[misc]
    return hint


def _from_file(value: Any) -> Any:
    """Return the value of a recipe's field, given the value in a sweep file."""
    if isinstance(value, dict):
        return tuple(sorted(value.items()))
    return tuple(value) if isinstance(value, list) else value


RecipeChanges: type[StrictModel] = create_model(  # type: ignore[call-overload]
    "RecipeChanges",
    __base__=StrictModel,
    **{
        name: (_hint_in_file(hint) | None, None)
        for name, hint in get_type_hints(Recipe, include_extras=True).items()
    },
)
"""One entry of `recipes`: the fields that differ from the task's own recipe for the model."""


class Study(StrictModel):
    """A grid of cells: the product of the axes `model`, `task`, `recipe`, `schedule`, `rewind` and
    `seed`, except that axes named together in `zip` vary together."""

    model: str | list[str]
    """Model, or list of models: labels in `models`, or an architecture with an optional size, such
    as `uniter-tiny`."""
    task: str | list[str]
    """Task, or list of tasks: labels in `tasks`, or names of tasks."""
    recipe: str | list[str] = "default"
    """Recipe, or list of recipes: labels in `recipes`, or `default`, the task's own recipe for the
    model."""
    schedule: Schedule | list[Schedule] = Schedule()
    """Pruning schedule, or list of schedules; by default nine linear levels of 10 %."""
    rewind: CountOrZero | list[CountOrZero] = 0
    """Step of the dense run whose weights each level starts from, or list of steps; 0 is
    theta_0."""
    seed: CountOrZero | list[CountOrZero] = 0
    """Seed, or list of seeds; `vary` says what they affect."""
    zip: list[list[Literal["model", "task", "recipe", "schedule", "rewind", "seed"]]] = []
    """Groups of axes that vary together, such as `[[task, recipe]]`: the lists of a group have
    equal lengths and are read in parallel. By default, all axes are combined with each other."""
    tickets: list[str] = ["imp"]
    """Sources of tickets to score: `imp` (iterative magnitude pruning), `omp` (one-shot magnitude
    pruning), `transfer` (the IMP tickets of each other task of the study), `transfer:TASK` (those
    of one task; from a pre-training task, it is the universal ticket), `search` (found by the
    search of a `pruner` that has one), or a source from outside the package."""
    controls: list[str] = ["random"]
    """Control tickets to score next to `tickets`: `random` (same budget over the whole pool),
    `random_layerwise` (same budget in each tensor), or the IMP ticket on other weights: `reinit`
    (newly drawn weights), `shuffle_within` (theta_0 with the entries of each tensor permuted),
    `shuffle_across` (theta_0 with its layers permuted), `init:MODEL` (the weights of another entry
    of `models`), or a control from outside the package. An empty list turns controls off."""
    score_levels: list[Count] | dict[str, list[Count]] | None = None
    """Levels to score, as one list or as one list per task; by default all. Chains always go
    through every level."""
    dense: bool = True
    """Whether to score the dense network of each combination of the axes. Set it to false if
    another study of the sweep scores it."""
    pruner: str = "magnitude"
    """How the tickets of `imp`, `omp` and `search` choose weights or other units: `magnitude`,
    `random`, a label in `pruners`, or a method that an installed package adds."""
    pool: str | None = None
    """Weights that can be pruned: `encoder+pooler`, `encoder`, or for `lxmert` also
    `encoder-reached`, without the matrices that its score does not depend on. By default
    `encoder+pooler`, or what a model from outside names."""
    scope: Literal["global", "layer"] = "global"
    """What weights are ranked within: `global` ranks the whole pool, `layer` prunes the same share
    of each tensor."""
    reset_head: Literal["rewind", "redraw"] = "rewind"
    """Task head of a run that starts from a rewind point: `rewind` takes the head saved there (VLT,
    Algorithm 1), `redraw` draws a new one."""
    rewind_schedule: Literal["full", "remaining"] = "full"
    """Steps of a run that starts from a rewind point: `full` trains the whole recipe again,
    `remaining` only the steps that follow the rewind point."""
    vary: list[Literal["init", "head", "data"]] = ["init", "head", "data"]
    """What `seed` affects: `init` (initial weights), `head` (task head) and `data` (order of the
    examples, and dropout). What is not listed uses seed 0."""
    tickets_from_seed: CountOrZero | None = None
    """Seed whose chains all seeds take their tickets from, so that repeats train the same tickets
    again. By default, each seed finds its own tickets."""
    ticket_recipe: str | None = None
    """Recipe of the chains that find the tickets: a label in `recipes`, or `default`. If this key
    is absent, tickets are found and scored with the same recipe."""

    def axis(self, name: str) -> list[Any]:
        """Return the values of an axis, which may be written as one value or as a list."""
        value = getattr(self, name)
        return value if isinstance(value, list) else [value]

    def points(self) -> Iterator[AxisValues]:
        """Yield the product of the axes, with zipped axes advanced together; the last axis varies
        fastest."""
        zipped = {axis for group in self.zip for axis in group}
        groups: list[list[str]] = [[*group] for group in self.zip]
        groups += [[axis] for axis in AXES if axis not in zipped]
        groups.sort(key=lambda group: AXES.index(group[0]))
        columns = [
            [dict(zip(group, row, strict=True)) for row in zip(*map(self.axis, group), strict=True)]
            for group in groups
        ]
        for combination in itertools.product(*columns):
            yield {axis: value for column in combination for axis, value in column.items()}

    def levels_of(self, task: str, schedule: Schedule) -> list[int]:
        """Return the levels of a task that get scores; level 1 has the first ticket."""
        levels = self.score_levels
        if isinstance(levels, dict):
            levels = levels.get(task)
        return list(range(1, schedule.levels + 1)) if levels is None else levels

    @model_validator(mode="after")
    def _check_axes(self) -> Self:
        zipped = [axis for group in self.zip for axis in group]
        if len(zipped) != len(set(zipped)):
            raise ValueError("zip names an axis twice; name each axis once")
        for group in self.zip:
            lengths = {axis: len(self.axis(axis)) for axis in group}
            if len(set(lengths.values())) > 1:
                found = ", ".join(f"{axis} has {length}" for axis, length in lengths.items())
                raise ValueError(f"zip: {found}; give them lists of equal length")
        if isinstance(self.score_levels, dict):
            differing = sorted(set(self.score_levels) ^ set(self.axis("task")))
            if differing:
                raise ValueError(
                    f"score_levels: {differing[0]!r} is in only one of `score_levels` and `task`;"
                    " give levels for each task of the study, or one list for all"
                )
        for point in self.points():
            schedule = point["schedule"]
            for level in self.levels_of(point["task"], schedule):
                if level > schedule.levels:
                    raise ValueError(
                        f"score_levels = {level} is past the schedule's last level; use"
                        f" {schedule.levels} or less"
                    )
        return self


class Win(StrictModel):
    """When a ticket counts as winning."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the dense score that a winning ticket reaches, above 0 and up to 1: 1 is a matching
    ticket, 0.99 is VLT's relaxed winning ticket."""
    tolerance: Literal["none", "one_sd"] = "one_sd"
    """What must reach that share of the dense score: `none` compares the mean over seeds, `one_sd`
    the mean plus one standard deviation."""
    seeds: Count = 2
    """Number of seeds needed for a verdict; with fewer seeds there is none."""


class StoreConfig(StrictModel):
    """An S3 bucket for tickets and records. Credentials are read from the environment."""

    url: StoreUrl
    """Bucket of the store, with an optional prefix: `s3://BUCKET/PREFIX`."""
    endpoint: Endpoint = ""
    """Address of the S3 server, such as `http://127.0.0.1:8333`, without user and password; by
    default AWS."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = "us-east-1"
    """Region of the bucket, such as `eu-central-1`."""


class Placement(StrictModel):
    """Where and how trials run. Results do not depend on it, except as `workers` and `cpus` say."""

    store: Literal["local"] | StoreConfig = "local"
    """Store of tickets and records: `local`, a server on this machine with its data in `--home`, or
    an S3 bucket (`url`, `endpoint`, `region`)."""
    tracking: Tracking = "local"
    """MLflow server for curves and reports: `local`, a server on this machine, `none`, or the
    address of a server, without user and password."""
    cache: Location | None = None
    """Folder on each machine for decoded data; by default a folder in `--home`."""
    cluster: Location | None = None
    """Cluster profile (a YAML file): the capacity and the prices of the nodes that the sweep runs
    on. By default, the sweep is planned without prices."""
    workers: Count = 1
    """Processes that train one trial together. The last bits of a result depend on their number.
    If `accumulate` is not a multiple of it, more than the last bits does: micro-batches are then
    split, each part draws its own masks and negatives, and in pre-training the loss of a part is
    weighted by its number of examples, not by how many words or regions of them are masked."""
    nodes: Count = 1
    """Machines that the workers of one trial are spread over, the same number on each; `workers`
    must be a multiple of it."""
    cpus: Count = 1
    """CPU threads per worker. On CPUs the last bits of a result depend on it, so keep it the same
    for a study."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs per worker; with a fraction, several trials share a GPU. With several workers it must be
    0 or 1; by default trials run on CPUs."""
    slots: Count | None = None
    """Number of trials that run at once; by default as many as fit on the cluster, at its maximum
    size if it can grow."""
    chunk_size: Count = 25
    """Maximum number of leaf trials, which no other trial waits for, in one assignment to a
    worker."""
    max_failures: Count = 3
    """Number of failures after which a trial is given up and the trials that depend on it are
    blocked. An error that another attempt would repeat gives it up at once. The loss of a whole
    node, by preemption or otherwise, does not count, unless a trial has lost 20 nodes."""
    stall_timeout_s: Positive = 1800.0
    """Seconds without a training step or an evaluation batch after which a trial is ended, which
    counts as a failure. Before its first step a trial may take ten times as long; the time that a
    trial on several machines waits for them does not count."""
    checkpoint_every_s: Positive | Literal["auto"] = "auto"
    """Seconds between the checkpoints of a trial; a shorter trial makes none. `auto` derives it
    from the cost of a checkpoint and from `mtbf_s`, as the interval that loses the least time."""
    mtbf_s: Positive = 14_400.0
    """Mean seconds between two losses of a worker, such as by preemption. The default of four hours
    suits a busy spot market."""

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.workers % self.nodes:
            raise ValueError(
                f"workers = {self.workers} is not allowed with {self.nodes} nodes; use a multiple"
                f" of {self.nodes}, so that each node has the same number"
            )
        if self.workers > 1 and self.gpus not in (0, 1):
            raise ValueError(
                f"gpus = {self.gpus:g} is not allowed with {self.workers} workers; use 1, the GPU"
                " of each worker, or 0"
            )
        return self

    @property
    def workers_per_node(self) -> int:
        """Workers of a trial on each of its machines."""
        return self.workers // self.nodes


class Sweep(StrictModel):
    """A sweep file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    """Name of the sweep, used for its report and its MLflow experiment: up to 63 lowercase letters,
    digits, `-` and `_`, the first one a letter or digit."""
    models: dict[str, ModelConfig] = {}
    """Models by label. A study can also use an architecture and size without an entry here, such as
    `uniter-tiny`."""
    tasks: dict[str, TaskConfig] = {}
    """Tasks by label. A study can also use a task that needs no data folder by its name, such as
    `easy_vqa`."""
    pruners: dict[str, PrunerConfig] = {}
    """Pruning methods of your own by label."""
    modules: list[Location] = []
    """Python files with further parts of your own: ticket sources, ticket kinds, optimizers,
    augmentations, data formats, strategies. Each file binds its part to `SOURCE`, `TICKET_KIND`,
    `OPTIMIZER`, `AUGMENTATION`, `FORMAT` or `STRATEGY`, and the part has the file's name without
    `.py`. The source of what trials use is part of their keys, so a changed file runs them
    again."""
    recipes: dict[str, RecipeChanges] = {}  # type: ignore[valid-type]
    """Recipes by label: what each one changes in the task's own recipe for the model."""
    studies: dict[str, Study]
    """Studies by label. Trials that several studies need run once."""
    rounds: Literal["shared", "separate"] = "shared"
    """Whether the runs of a chain are also scored: `shared` prunes level k + 1 from the run that
    scores level k; `separate` gives chains runs of their own, as BERT-Tickets' code does (918
    instead of 783 fine-tunes for VLT's grid)."""
    strategy: str = "all"
    """Which trials of the plan run: `all`, the whole grid, or the name of a strategy that a file in
    `modules` or an installed package (entry point of `sweepstakes.strategies`) adds. Trials that it
    does not want are skipped; it never affects a trial key."""
    win: Win = Win()
    """When a ticket counts as winning in the report."""
    placement: Placement = Placement()
    """Where and how trials run."""

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a sweep file (YAML).

        Raises:
            MissingFile, ConfigError: one line that begins with the path.
        """
        return load_yaml(Path(path), cls, kind="sweep")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Create a sweep from what a sweep file holds, as `yaml.safe_load` returns it. Values may
        also be objects, such as a `Study`.

        Raises:
            ConfigError: one line, as for a file.
        """
        data = dict(content) if isinstance(content, Mapping) else content
        return validate(data, cls, kind="sweep")

    def recipe_changes(self, label: str) -> dict[str, Any]:
        """Return the fields that the recipe `label` changes."""
        changes: dict[str, Any] = self.recipes[label].model_dump(exclude_none=True)  # type: ignore[attr-defined]
        return {name: _from_file(value) for name, value in changes.items()}
