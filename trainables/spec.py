"""What one trial is, as plain data.

Every class here is frozen and holds only what changes a trial's result; where and how the trial
runs (paths, devices, workers, addresses) never enters. References to other trials are their keys;
data and checkpoint files are named by a fingerprint of their content. No torch is imported, so
that planning stays cheap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

Scalar: TypeAlias = str | int | float | bool
Options: TypeAlias = tuple[tuple[str, Scalar], ...]
"""Sorted (name, value) pairs: a small mapping that can be hashed."""

MOST = 2**63 - 1
"""What a column of a table holds."""
Count: TypeAlias = Annotated[int, Ge(1), Le(MOST)]
CountOrZero: TypeAlias = Annotated[int, Ge(0), Le(MOST)]
Positive: TypeAlias = Annotated[float, Gt(0)]
PositiveOrZero: TypeAlias = Annotated[float, Ge(0)]
Role: TypeAlias = Literal["evaluation", "round"]
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
Momentum: TypeAlias = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """An architecture at a size; `trainables.models.MODELS` lists both."""

    architecture: str
    size: str = "base"
    overrides: Options = ()
    """Configuration values that differ from the size's own, such as `("num_hidden_layers", 1)`."""
    semantics: int = 1
    """Raised by hand in the registry when a change to the model's code alters results."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """A task on given data; `trainables.tasks.TASKS` lists the names."""

    name: str
    data: str
    """Fingerprint of the data's content (64 hex digits)."""
    options: Options = ()
    semantics: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a network is trained. Schedules are in optimizer steps."""

    steps: Count = 1000
    batch_size: Count = 32
    """Examples per optimizer step, before it is split by `accumulate`."""
    tokens: CountOrZero = 0
    """Above 0, a micro-batch holds examples of like length up to so many tokens (words and regions,
    padding included; UNITER's `TokenBucketSampler`), and `batch_size` does not count."""
    accumulate: Count = 1
    """Micro-batches per optimizer step; must divide `batch_size`."""
    lr: Positive = 1e-4
    head_lr_scale: Positive = 1.0
    """The task head learns at `lr * head_lr_scale`."""
    warmup: Share = 0.1
    """Share of `steps` in which the learning rate rises linearly from 0."""
    decay: Literal["linear", "constant"] = "linear"
    """After warm-up: linearly to 0 at the last step, or constant."""
    weight_decay: PositiveOrZero = 0.01
    """AdamW's; biases and LayerNorm weights are exempt."""
    decay_vectors: bool = False
    """Decay biases and LayerNorm weights too, as LXMERT's BertAdam does."""
    beta1: Momentum = 0.9
    beta2: Momentum = 0.98
    eps: Positive = 1e-8
    bias_correction: bool = True
    """Of Adam's moments; LXMERT's BertAdam has none."""
    clip_norm: PositiveOrZero = 1.0
    """Global gradient norm; 0 turns clipping off."""
    dropout: Momentum = 0.1
    precision: Literal["fp32", "bf16"] = "fp32"
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage. bf16 needs 1 or more: at 0 DeepSpeed takes one step too many. At 3 each
    trial has processes of its own, which take seconds to start."""
    compile: bool = False
    """Run the network through `torch.compile`: faster after a slow start, other last bits."""
    adversary: Literal["none", "text", "image", "both", "alternate"] = "none"
    """What VILLA's adversary (Gan et al. 2020, Algorithm 1) perturbs: word embeddings, what the
    model sees of the image, both at once, or one after the other."""
    adversary_steps: Count = 3
    """Ascent steps per batch; the weights' gradients of all are averaged."""
    adversary_lr: Positive = 1e-3
    """Length of one ascent step, per example, in the l2 norm."""
    adversary_max_norm: PositiveOrZero = 0.0
    """The perturbation of an example is projected back to this l2 norm; 0 leaves it free."""
    adversary_kl: PositiveOrZero = 1.5
    """Weight of the symmetric KL divergence between clean and perturbed predictions, in nats per
    example."""
    eval_every: CountOrZero = 0
    """Evaluate each so many steps; 0 evaluates at the end only."""
    eval_examples: CountOrZero = 0
    """Score on the first so many held-out examples; 0 takes all."""
    score: Literal["last", "best"] = "last"
    """Which evaluation is the trial's score; both are recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """Separate, so that runs may differ in one source of chance only (Frankle et al. 2020)."""

    head: int = 0
    """Draws the task head."""
    data: int = 0
    """Orders the examples and drives dropout."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """The weights a run starts from.

    `init` draws a fresh backbone from `seed`; `pretrained` reads the checkpoint file whose
    content has the fingerprint `weights`; `rewind` takes what the rewind trial `trial` kept: a
    rewind point of the task's own dense run, or the end of a pre-training run.
    """

    kind: Literal["init", "pretrained", "rewind"] = "init"
    seed: int = 0
    weights: str = ""
    fill: bool = False
    """Draw from `seed` what the checkpoint file lacks (BERT's knows no image embeddings); else a
    file that lacks anything is refused."""
    trial: str = ""
    shuffle: Literal["none", "within_layer", "across_depth"] = "none"
    """Permute each prunable tensor's entries, or whole tensors of equal shape between layers:
    the shuffled control of VLT (Table 1, row 7) and the one of BERT-Tickets' code."""
    shuffle_seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSpec:
    """Train a network, dense or under a ticket, and score it."""

    model: ModelSpec
    task: TaskSpec
    recipe: Recipe
    seeds: Seeds = Seeds()
    start: Start = Start()
    ticket: str = ""
    """Key of the cut whose ticket is worn; empty for a dense run."""
    head: Literal["redraw", "rewind"] = "rewind"
    """From a rewind point, take its head too (Algorithm 1 resets theta and phi) or draw anew, as
    where the point is of another task; the heads of a pre-training run are then offered to
    `Task.adopt`, as those of a published file are."""
    role: Role = "evaluation"
    """`round` marks a run that only cuts the next ticket, where a sweep trains separate runs to
    score (BERT-Tickets does); it sees another data order than the evaluation of the same level."""
    first_step: int = 0
    """Steps of the schedule already behind at the start: above 0 a rewound run trains only the
    rest of the schedule, on the rest of the data order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CutSpec:
    """Choose which weights to keep.

    `magnitude` keeps the largest |w|, of the final weights of the training run `run` (and then
    inside the ticket that the run wore), or, where `run` is empty, of the untrained `start`
    (one-shot magnitude pruning, OMP). `random` keeps weights drawn by `seed`; where `like` names
    a ticket, it copies that ticket's count layer by layer.
    """

    model: ModelSpec
    method: str = "magnitude"
    """A name in `trainables.pruning.CUTS`."""
    sparsity: float
    """Share of the pool that is pruned in all, 0 to 1: kept = total - round(total * sparsity)."""
    scope: Literal["global", "layer"] = "global"
    """Rank over the whole pool, or prune the same share of each tensor."""
    pool: str = "encoder+pooler"
    """Which tensors can be pruned and are counted; named by the model's registry entry."""
    run: str = ""
    start: Start | None = None
    like: str = ""
    seed: int = 0
    semantics: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RewindSpec:
    """Keep the weights (backbone and head) of training run `run` after `step` optimizer steps."""

    run: str
    step: int


CUT_SEMANTICS = 1
"""Raised by hand when a change to the cuts alters which weights they keep."""

TrialSpec: TypeAlias = TrainSpec | CutSpec | RewindSpec
Kind: TypeAlias = Literal["train", "cut", "rewind"]
KINDS: dict[Kind, type[TrainSpec] | type[CutSpec] | type[RewindSpec]] = {
    "train": TrainSpec,
    "cut": CutSpec,
    "rewind": RewindSpec,
}
