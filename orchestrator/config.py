"""A sweep file: its keys, their types, and one clear line for everything that can be wrong in it.

`studies` and what they refer to (`models`, `tasks`, `recipes`) are science and decide the trial
keys; `placement` says where and how trials run and cannot reach a key; `win` is how the report
judges. Paths in `models` and `tasks` are replaced by fingerprints before anything is hashed.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from orchestrator.errors import ConfigError, MissingFile
from trainables.spec import Count, CountOrZero, Positive, Recipe, Scalar

AXES = ("model", "task", "recipe", "schedule", "rewind", "seed")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Strict):
    """One entry of `models`."""

    architecture: str
    size: str = "base"
    weights: Path | None = Field(default=None, strict=False)
    """Checkpoint to start from; without it the network is drawn from the seed."""
    overrides: dict[str, Scalar] = {}


class Task(Strict):
    """One entry of `tasks`."""

    task: str
    data: Path | None = Field(default=None, strict=False)
    """Folder with the data; without it, the data that a package ships, where one does."""
    options: dict[str, Scalar] = {}


class Schedule(Strict):
    """How fast a chain prunes."""

    kind: Literal["linear", "geometric"] = "linear"
    """`linear` prunes `rate` of the original pool per level (10, 20, 30 %, as VLT reports);
    `geometric` prunes `rate` of what is left (20, 36, 48.8 %, as CV-LTH)."""
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    levels: CountOrZero = 9
    """Number of cuts; 0 trains the dense network only."""

    def sparsity(self, level: int) -> float:
        """Share of the pool that is pruned at `level`, rounded so that 3 x 0.1 is 0.3."""
        if self.kind == "linear":
            return round(level * self.rate, 12)
        return round(1 - (1 - self.rate) ** level, 12)

    def label(self) -> str:
        return f"{self.kind} {self.rate:.4g}"


RecipeChanges: type[Strict] = create_model(  # type: ignore[call-overload]
    "RecipeChanges",
    __base__=Strict,
    **{
        name: (hint | None, None)
        for name, hint in get_type_hints(Recipe, include_extras=True).items()
    },
)
"""One entry of `recipes`: the fields that differ from the task's own recipe for the model."""


class Study(Strict):
    """A grid of cells. The axes take one value or a list; their product is run, except that axes
    named together in `zip` move in step."""

    model: str | list[str]
    task: str | list[str]
    recipe: str | list[str] = "default"
    schedule: Schedule | list[Schedule] = Schedule()
    rewind: CountOrZero | list[CountOrZero] = 0
    """Steps into the dense run whose weights each level starts from; 0 is theta_0."""
    seed: CountOrZero | list[CountOrZero] = 0
    zip: list[list[Literal["model", "task", "recipe", "schedule", "rewind", "seed"]]] = []
    tickets: list[str] = ["imp"]
    """Sources of tickets: `imp`, `omp`, `transfer` (from every other task of the study) or
    `transfer:TASK`."""
    controls: list[str] = ["random"]
    """Made without being asked for: `random` (same budget over the whole pool),
    `random_layerwise` (same budget in each tensor), `reinit`, `shuffle_within`,
    `shuffle_across`. An empty list turns them off."""
    at: list[Count] | None = None
    """Levels that get cells; all by default. Chains still pass through every level."""
    cut: str = "magnitude"
    """How chains and one-shot tickets choose weights: a name in `trainables.pruning.CUTS`."""
    pool: str = "encoder+pooler"
    scope: Literal["global", "layer"] = "global"
    reset_head: Literal["rewind", "redraw"] = "rewind"
    """At a rewind point: take the head kept there (VLT, Algorithm 1), or draw it anew."""
    rewind_schedule: Literal["full", "remaining"] = "full"
    """From a rewind point: train the whole schedule again, or only what was left of it."""
    vary: list[Literal["init", "head", "data"]] = ["init", "head", "data"]
    """What the seed axis drives; the others stay at 0."""
    tickets_from_seed: CountOrZero | None = None
    """Take every seed's tickets from this seed's chains: repeats then re-train, not re-derive."""


class Win(Strict):
    """When a ticket counts as winning."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the dense score to reach: 1 is matching, 0.99 is VLT's relaxed winning ticket."""
    tolerance: Literal["none", "one_sd"] = "one_sd"
    """`one_sd`: the mean plus one standard deviation over seeds must reach the line."""
    seeds: Count = 2
    """Fewer seeds than this give no verdict."""


class Store(Strict):
    url: Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/.*)?$")]
    endpoint: str = ""
    region: str = "us-east-1"


class Placement(Strict):
    """Where and how; nothing here can change a result."""

    store: Literal["local"] | Store = "local"
    tracking: Annotated[str, Field(pattern=r"^(local|none|https?://.+)$")] = "local"
    """`local`, `none`, or the address of an MLflow server."""
    cpus: Count = 1
    """CPU threads per trial. On CPU the last bits of a result depend on it: keep it for a study."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs per trial; fractions share one."""
    slots: Count | None = None
    """Trials at once; by default as many as the cluster's CPUs and GPUs hold."""
    lane: Count = 25
    """Most leaf trials handed to a worker at once."""
    strikes: Count = 3
    """Failures after which a trial is given up and its descendants are blocked."""
    checkpoint_every_s: Positive = 300.0
    """Seconds between mid-trial checkpoints; shorter trials make none."""


class Sweep(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    models: dict[str, Model] = {}
    tasks: dict[str, Task] = {}
    recipes: dict[str, RecipeChanges] = {}  # type: ignore[valid-type]
    studies: dict[str, Study]
    win: Win = Win()
    placement: Placement = Placement()

    def recipe_changes(self, label: str) -> dict[str, Any]:
        """The fields that the recipe `label` changes."""
        changes: dict[str, Any] = self.recipes[label].model_dump(exclude_none=True)  # type: ignore[attr-defined]
        return changes


class _Loader(yaml.SafeLoader):
    """safe_load that reads 2e-3 as a number (YAML 1.2; PyYAML alone makes it a string) and
    refuses a key given twice (PyYAML alone keeps the last in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"`{key.value}` is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def load(path: Path) -> Sweep:
    """Read and validate a sweep file; MissingFile or ConfigError, one line each."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MissingFile(f"{path}: cannot be read ({error.strerror}); give a sweep file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; give a sweep file") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"{path}{line}: {problem}; mend the YAML") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds no keys; a sweep needs at least `name` and `studies`")
    try:
        return Sweep.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first thing wrong, as `where = value is not allowed; cure`."""
    details = min(error.errors(include_url=False), key=_rank)
    where = _where(details)
    if details["type"] == "extra_forbidden":
        return _unknown_key(where, details)
    if details["type"] == "missing":
        return f"{where} is missing; add it"
    return f"{where} = {_short(details['input'])} is not allowed; {_cure(details)}"


def _rank(details: ErrorDetails) -> tuple[bool, int]:
    """Unknown keys first: a mistyped key usually causes the other complaints; then the deepest,
    because of the members of a union it is the one that came nearest."""
    return details["type"] != "extra_forbidden", -len(details["loc"])


def _where(details: ErrorDetails) -> str:
    """The key's path; pydantic's names of union members (`Schedule`, `list[...]`) are dropped."""
    path = ""
    for part in details["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part[:1].islower() and not part.startswith(_UNION_MEMBERS):
            path += f".{part}" if path else part
    return path


_UNION_MEMBERS = ("list[", "constrained-", "literal[", "int", "str", "float", "bool")


_SECTIONS: dict[str, type[BaseModel]] = {
    "models": Model,
    "tasks": Task,
    "recipes": RecipeChanges,
    "studies": Study,
    "schedule": Schedule,
    "win": Win,
    "placement": Placement,
    "store": Store,
}


def _unknown_key(where: str, details: ErrorDetails) -> str:
    parents = [part for part in details["loc"][:-1] if part in _SECTIONS]
    valid = list((_SECTIONS[str(parents[-1])] if parents else Sweep).model_fields)
    near = difflib.get_close_matches(str(details["loc"][-1]), valid, n=1)
    cure = f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(valid)}"
    return f"{where} is not a known key; {cure}"


def _cure(details: ErrorDetails) -> str:
    limits = details.get("ctx", {})
    forms = {
        "greater_than_equal": "use {ge} or more",
        "greater_than": "use more than {gt}",
        "less_than_equal": "use {le} or less",
        "less_than": "use less than {lt}",
        "literal_error": "use {expected}",
        "string_pattern_mismatch": "it must match {pattern}",
    }
    if details["type"] in forms:
        return forms[details["type"]].format(**limits)
    return details["msg"].replace("Input should be", "it should be")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
