"""A sweep file: its keys, their types and their defaults (`sweep_file` reads one).

`studies` and what they refer to (`models`, `tasks`, `recipes`) are science and decide the trial
keys; `placement` says where and how trials run and cannot reach a key; `win` is how the report
judges. Paths in `models` and `tasks` are replaced by fingerprints before anything is hashed.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from trainables.spec import Count, CountOrZero, Positive, Recipe, Scalar

AXES = ("model", "task", "recipe", "schedule", "rewind", "seed")
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
SERVER = r"https?://([\w.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"
"""An address without user and password: those would be told wherever the address is."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _expanded(path: Path) -> Path:
    try:
        return Path(os.path.expandvars(path.expanduser())).absolute()
    except RuntimeError:
        raise PydanticCustomError("home", "name a user whom this machine knows") from None


Location: TypeAlias = Annotated[Path, Field(strict=False), AfterValidator(_expanded)]
"""`~` and `$NAME` stand for the home folder and for an environment variable; a relative path is
one from where the command runs, since workers run elsewhere."""


class Pretraining(Strict):
    """A training run of this sweep, at whose end a model's theta_0 lies."""

    task: str
    recipe: str = "default"
    seed: CountOrZero = 0
    """Draws the network it starts from, its head, and the order of its data."""


class Model(Strict):
    """One entry of `models`: an architecture and theta_0."""

    architecture: str
    size: str = "base"
    weights: Location | None = None
    """Checkpoint to start from; without it the network is drawn from the seed."""
    fill: bool = False
    """Draw what the checkpoint lacks (BERT's knows no image embeddings) instead of refusing it."""
    pretrained_by: Pretraining | None = None
    overrides: dict[str, Scalar] = {}


class Task(Strict):
    """One entry of `tasks`."""

    task: str
    data: Location | None = None
    """Folder with the data; without it, the data that a package ships, where one does."""
    options: dict[str, Scalar] = {}


class Schedule(Strict):
    """How fast a chain prunes."""

    kind: Literal["linear", "geometric"] = "linear"
    """`linear` prunes `rate` of the original pool per level (10, 20, 30 %, as VLT reports);
    `geometric` prunes `rate` of what is left (20, 36, 48.8 %, as CV-LTH)."""
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    levels: Annotated[CountOrZero, Field(le=1000)] = 9
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
    `transfer:TASK`; from a pre-training task that is the universal ticket."""
    controls: list[str] = ["random"]
    """Made without being asked for: `random` (same budget over the whole pool),
    `random_layerwise` (same budget in each tensor), `reinit`, `shuffle_within`,
    `shuffle_across`, `init:MODEL` (the IMP ticket on the weights of another entry of `models`).
    An empty list turns them off."""
    at: list[Count] | dict[str, list[Count]] | None = None
    """Levels that get cells, the same for all or by task; all by default. Chains still pass through
    every level."""
    dense: bool = True
    """Ask for the dense score of each point; another study's serves as well."""
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
    ticket_recipe: str | None = None
    """Recipe of the chains that tickets are cut from; by default the one they are scored with."""


class Win(Strict):
    """When a ticket counts as winning."""

    ratio: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the dense score to reach: 1 is matching, 0.99 is VLT's relaxed winning ticket."""
    tolerance: Literal["none", "one_sd"] = "one_sd"
    """`one_sd`: the mean plus one standard deviation over seeds must reach the line."""
    seeds: Count = 2
    """Fewer seeds than this give no verdict."""


class Store(Strict):
    url: Annotated[str, Field(pattern=rf"^s3://{BUCKET}(/.*)?$")]
    endpoint: Annotated[str, Field(pattern=rf"^({SERVER}/?)?$")] = ""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = "us-east-1"


class Placement(Strict):
    """Where and how. A result does not depend on it, but for its last bits on `cpus`, and on
    `workers` as told there."""

    store: Literal["local"] | Store = "local"
    tracking: Annotated[str, Field(pattern=rf"^(local|none|{SERVER}(/[^@]*)?)$")] = "local"
    """`local`, `none`, or the address of an MLflow server."""
    cache: Location | None = None
    """Folder of each machine for decoded data; by default below `--home`."""
    cluster: Location | None = None
    """Profile (YAML) of the cluster that this runs on: what its nodes hold and cost."""
    workers: Count = 1
    """Processes that train one trial together; the last bits of a result depend on it. More does
    where `accumulate` is no multiple of it: micro-batches are then split, each part draws its own
    masks and negatives, and in pre-training its loss weighs by its examples, however many words or
    regions of them are masked."""
    nodes: Count = 1
    """Machines that a trial's workers are spread over, the same number on each."""
    cpus: Count = 1
    """CPU threads per worker. On CPU a result's last bits depend on it: keep it for a study."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs per worker; fractions share one."""
    slots: Count | None = None
    """Trials at once; by default as many as the cluster holds, or may grow to."""
    lane: Count = 25
    """Most leaf trials handed to a worker at once."""
    strikes: Count = 3
    """Failures after which a trial is given up and its descendants are blocked. The loss of a whole
    node, by preemption or not, is none."""
    stall_s: Positive = 1800.0
    """A trial without a step, or a batch of an evaluation, for so many seconds is ended, which is a
    strike. Before its first step a trial may take ten times as long, not counting the wait for the
    machines that it spans."""
    checkpoint_every_s: Positive | Literal["auto"] = "auto"
    """Seconds between mid-trial checkpoints; shorter trials make none. `auto` follows from what a
    checkpoint costs and from `lost_every_s` (see `pace`)."""
    lost_every_s: Positive = 14_400.0
    """Mean seconds until a worker is lost. Four hours is a spot market in a bad mood."""

    @property
    def share(self) -> int:
        """Workers of a trial on each of its machines."""
        return math.ceil(self.workers / self.nodes)


class Sweep(Strict):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    models: dict[str, Model] = {}
    tasks: dict[str, Task] = {}
    recipes: dict[str, RecipeChanges] = {}  # type: ignore[valid-type]
    studies: dict[str, Study]
    rounds: Literal["shared", "separate"] = "shared"
    """`shared`: the run that scores level k also cuts level k + 1. `separate`: chains have runs of
    their own, as BERT-Tickets' code has; 918 instead of 783 fine-tunes for VLT's grid."""
    win: Win = Win()
    placement: Placement = Placement()

    def recipe_changes(self, label: str) -> dict[str, Any]:
        """The fields that the recipe `label` changes."""
        changes: dict[str, Any] = self.recipes[label].model_dump(exclude_none=True)  # type: ignore[attr-defined]
        return changes
