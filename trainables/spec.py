"""The specification of one trial, as plain data.

Every class here is frozen and holds only what changes a trial's result. How and where the trial
runs (paths, devices, workers, addresses) is not part of it. A reference to another trial is that
trial's key; data and checkpoint files are named by a fingerprint of their content. This module does
not import torch, which keeps planning cheap. `trainables/__init__.py` lists the papers that are
cited by a short name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

BACKBONE = "backbone."
HEAD = "head."
"""Prefixes of the names of a network's tensors: the backbone's, and the task head's."""
TASK_STATE = "task."
"""Prefix of the names of a task's state, next to the network's tensors."""

Scalar: TypeAlias = str | int | float | bool
Options: TypeAlias = tuple[tuple[str, Scalar], ...]
"""Sorted (name, value) pairs: a small hashable mapping."""

MAX_COUNT = 2**63 - 1
"""Largest integer that a table column (int64) can hold."""
Count: TypeAlias = Annotated[int, Ge(1), Le(MAX_COUNT)]
CountOrZero: TypeAlias = Annotated[int, Ge(0), Le(MAX_COUNT)]
Positive: TypeAlias = Annotated[float, Gt(0)]
PositiveOrZero: TypeAlias = Annotated[float, Ge(0)]
Role: TypeAlias = Literal["evaluation", "round"]
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
ShareBelowOne: TypeAlias = Annotated[float, Ge(0), Lt(1)]
Factors: TypeAlias = tuple[tuple[str, Positive], ...]
"""Sorted (name, factor) pairs: a small hashable mapping."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """An architecture at a size; `trainables.models.MODELS` lists both."""

    architecture: str
    """Name of the architecture, such as `uniter`."""
    size: str = "base"
    """Name of one of the architecture's sizes, such as `base` or `tiny`."""
    overrides: Options = ()
    """Configuration values that differ from those of the size, such as
    `("num_hidden_layers", 1)`."""
    semantics: int = 1
    """Version of the model's code. The registry raises it by hand when a change alters results."""
    source: str = ""
    """Hash of the source of a model from outside the package (64 hex digits); empty
    for a built-in one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """A task on given data; `trainables.tasks.TASKS` lists the names."""

    name: str
    """Name of the task, such as `easy_vqa`."""
    data: str
    """Fingerprint of the data's content (64 hex digits)."""
    options: Options = ()
    """Options of the task that differ from its defaults."""
    format: str = ""
    """Format of the data, if it is not the first of the model's formats that holds the task."""
    semantics: int = 1
    """Version of the task's code. The registry raises it by hand when a change alters results."""
    source: str = ""
    """Hash of the source of a task from outside the package (64 hex digits); empty
    for a built-in one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a network is trained. Schedules are counted in optimizer steps."""

    steps: Count = 1000
    """Number of optimizer steps in the run's schedule."""
    batch_size: Count = 32
    """Examples per optimizer step, over all micro-batches and processes. Ignored if `tokens` is
    above 0."""
    tokens: CountOrZero = 0
    """Token limit of a micro-batch, counting words, regions or patches, and padding. Above 0,
    examples of similar length are batched together up to this limit, and `batch_size` is ignored;
    0 uses batches of `batch_size` examples."""
    token_batches: Literal["full", "uniter"] = "full"
    """How micro-batches are filled up to `tokens`. `full` adds examples as long as the micro-batch,
    padded to its own longest example, stays within the limit, and uses every example once per
    epoch. `uniter` follows UNITER's `TokenBucketSampler` (`data/sampler.py`), to which UNITER's
    published numbers of steps belong. It sorts 8,192 examples at a time and gives all of their
    micro-batches the size that fits the longest of them, which is about half as many examples. Its
    lengths leave out [CLS] and [SEP], and the last micro-batch of each 8,192 is dropped. Only
    allowed if `tokens` is above 0."""
    accumulate: Count = 1
    """Micro-batches per optimizer step, whose gradients are averaged. It must divide `batch_size`,
    unless `tokens` is above 0."""
    optimizer: str = "adamw"
    """Optimizer: `adamw`, `sgd` (as `torch.optim.SGD`), `lars` (You et al. 2017), or one from
    outside the package. `lars` needs `zero` 0."""
    lr: Positive = 1e-4
    """Peak learning rate, reached at the end of the warm-up."""
    head_lr_scale: Positive = 1.0
    """Factor on the learning rate of the task head, which learns at `lr * head_lr_scale`."""
    lr_scales: Factors = ()
    """Factors on the learning rates of groups of weights that the model names, such as
    `{fusion: 5.0}`; by default none."""
    warmup: Share = 0.1
    """Share of `steps`, from 0 to below 1, in which the learning rate rises linearly from 0 to
    `lr`."""
    decay: str = "linear"
    """Learning rate after the warm-up: `linear` falls to 0 at the last step, `constant` stays at
    `lr`, `cosine` falls along half a cosine to `lr_end`, `multi_step` is multiplied by `gamma` at
    each of `milestones`, and `polynomial` falls to `lr_end` with the power `power`."""
    milestones: tuple[Count, ...] = ()
    """Numbers of steps, ascending, after which `multi_step` multiplies the learning rate by
    `gamma`."""
    gamma: Positive = 0.1
    """Factor on the learning rate at each of `milestones`."""
    power: Positive = 1.0
    """Power of `polynomial`; 1 falls linearly."""
    lr_end: PositiveOrZero = 0.0
    """Learning rate of the last step under `cosine` and `polynomial`."""
    weight_decay: PositiveOrZero = 0.01
    """Weight decay: decoupled under `adamw`, added to the gradient (L2) under `sgd` and `lars`.
    Biases and normalization weights are exempt unless `decay_vectors` is set."""
    decay_vectors: bool = False
    """Whether weight decay applies to biases and normalization weights too, as in LXMERT's
    BertAdam. Under `lars` their learning rate is then scaled by the trust ratio too."""
    beta1: ShareBelowOne = 0.9
    """Decay rate of Adam's running mean of gradients."""
    beta2: ShareBelowOne = 0.98
    """Decay rate of Adam's running mean of squared gradients."""
    eps: Positive = 1e-8
    """Constant that Adam adds to the denominator of its update."""
    bias_correction: bool = True
    """Whether Adam corrects the bias of its moments towards zero. LXMERT's BertAdam does not."""
    momentum: ShareBelowOne = 0.9
    """Momentum of `sgd` and `lars`."""
    nesterov: bool = False
    """Whether `sgd` uses Nesterov momentum."""
    trust_coefficient: Positive = 0.001
    """Factor of LARS on the ratio of a layer's weight norm to its gradient norm."""
    clip_norm: PositiveOrZero = 1.0
    """Largest global L2 norm of the gradient, to which it is scaled down; 0 turns clipping off."""
    dropout: ShareBelowOne = 0.1
    """Dropout probability of the backbone and of UNITER's NLVR2 head. Other heads have none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format in which the network computes. The master weights are float32 in both."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage. From 1 on the optimizer's state, and at `bf16` the master weights, are
    sharded over the processes of a trial, which with one process saves nothing and makes a `bf16`
    step slower. At 3 each trial runs in processes of its own, which take seconds to start."""
    compile: bool = False
    """Whether the network runs through `torch.compile`: a slow start, then faster steps. Results
    differ from an uncompiled run in the last bits. Not available with `zero` 3."""
    augmentation: str = "none"
    """How images are changed at random while they are trained on: `none`, `crop_flip` (padded by an
    eighth, cropped at random, and mirrored half the time, for models that read pixels), or one from
    outside the package."""
    region_features: Literal["float16", "float32"] = "float16"
    """Number format of the region features that a model reads: `float32` takes them as the files
    hold them, `float16` rounds them, which halves LXMERT's in the cache and moves its loss by up to
    2e-5. UNITER's files hold float16, so both are the same for them."""
    adversary: Literal["none", "text", "image", "both", "alternate"] = "none"
    """Input that VILLA's adversary (Gan et al. 2020, Algorithm 1) perturbs: the word embeddings
    (`text`), the region features or pixels (`image`), both at once, or one after the other in each
    ascent step (`alternate`)."""
    adversary_steps: Count = 3
    """Ascent steps of the adversary per batch. The gradients of the weights are averaged over
    them."""
    adversary_lr: Positive = 1e-3
    """Length of one ascent step of the adversary, per example, in the L2 norm."""
    adversary_max_norm: PositiveOrZero = 0.0
    """Largest L2 norm of an example's perturbation, to which it is projected back; 0 sets no
    limit."""
    adversary_kl: PositiveOrZero = 1.5
    """Weight of the symmetric KL divergence, in nats per example, between the clean and the
    perturbed predictions."""
    eval_every: CountOrZero = 0
    """Optimizer steps between evaluations; 0 evaluates at the end only."""
    eval_examples: CountOrZero = 0
    """Number of held-out examples to score, from the first one; 0 scores all."""
    score: Literal["last", "best"] = "last"
    """Evaluation that gives the trial's score: the last one or the best one. Both are recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """Separate seeds, so that two runs can differ in one source of randomness only (Frankle et al.
    2020)."""

    head: int = 0
    """Seed of the task head's initial weights."""
    data: int = 0
    """Seed of the order of the examples, of dropout, and of what the task draws for a batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """The weights that a run starts from."""

    kind: Literal["init", "pretrained", "rewind"] = "init"
    """Source of the weights. `init` draws a backbone from `seed`. `pretrained` reads the checkpoint
    file with the fingerprint `weights`. `rewind` takes the result of the rewind trial `trial`: a
    rewind point of the task's own dense run, or the end of a pre-training run."""
    seed: int = 0
    """Seed of the backbone that `init` draws, and of the weights that `fill` draws."""
    weights: str = ""
    """Fingerprint of the checkpoint file of a `pretrained` start (64 hex digits)."""
    fill: bool = False
    """Whether weights that the checkpoint file lacks are drawn from `seed` (BERT's file has no
    image embeddings). Otherwise an incomplete file is refused."""
    trial: str = ""
    """Key of the rewind trial of a `rewind` start."""
    shuffle: Literal["none", "within_layer", "across_depth"] = "none"
    """Shuffled control: permute the entries within each prunable tensor (VLT Table 1, row 7), or
    exchange whole tensors of equal shape between layers (BERT-Tickets' code)."""
    shuffle_seed: int = 0
    """Seed of the permutations of `shuffle`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What a training run searches for beside its training, such as which blocks to skip."""

    method: str
    """Pruning method whose search it is: a name in `trainables.pruning.PRUNERS`."""
    options: Options = ()
    """Options of the search that differ from its defaults."""
    source: str = ""
    """Hash of the source of a method from outside the package (64 hex digits); empty
    for a built-in one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSpec:
    """Train a network, dense or under a ticket, and score it."""

    model: ModelSpec
    task: TaskSpec
    recipe: Recipe
    seeds: Seeds = Seeds()
    start: Start = Start()
    ticket: str = ""
    """Key of the prune trial whose ticket is applied; empty for a dense run."""
    head: Literal["redraw", "rewind"] = "rewind"
    """Head of a run that starts from a rewind point: `rewind` takes the point's own (VLT Algorithm
    1 resets backbone and head), `redraw` draws a new one, for a point that belongs to another task.
    The heads of a pre-training run are then offered to `Task.init_from_pretrained`, like those of a
    published file."""
    role: Role = "evaluation"
    """`round` marks a run whose only purpose is to prune the next ticket, in a sweep that trains
    separate runs to score tickets (as BERT-Tickets does). Its data order differs from that of the
    evaluation at the same level."""
    first_step: int = 0
    """Number of steps of the schedule that led to the start weights and are not repeated. Above 0,
    a rewound run trains only the rest of the schedule, on the rest of the data order."""
    search: Search | None = None
    """Search of a pruning method that the run does while it trains; its result is a ticket."""
    sources: Options = ()
    """Hashes of the sources (64 hex digits) of the parts from outside the package that have no spec
    of their own, by registry and name (see `trainables.parts`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneSpec:
    """Choose which weights, or other units of a model, to keep.

    `magnitude` keeps the weights with the largest |w|. It ranks the final weights of the training
    run `run`, inside the ticket that was applied to that run; if `run` is empty, it ranks the
    untrained `start` (one-shot magnitude pruning, OMP). `random` keeps weights drawn from `seed`;
    if `like` names a ticket, that ticket's count is copied layer by layer.
    """

    model: ModelSpec
    method: str = "magnitude"
    """Pruning method: a name in `trainables.pruning.PRUNERS`."""
    ticket_kind: str = "weights"
    """What the ticket keeps or removes: a name in `trainables.tickets.TICKET_KINDS`."""
    sparsity: float
    """Share of the pool that is pruned in total, 0 to 1: kept = total - round(total * sparsity)."""
    scope: Literal["global", "layer"] = "global"
    """Rank over the whole pool, or prune the same share of each tensor."""
    pool: str = "encoder+pooler"
    """The tensors that can be pruned and are counted, by a name from the model's registry entry."""
    run: str = ""
    """Key of the training run whose final weights are ranked; empty if no run is ranked."""
    start: Start | None = None
    """Untrained weights that are ranked if `run` is empty."""
    like: str = ""
    """Key of the reference ticket whose count in each tensor a random ticket copies."""
    seed: int = 0
    """Seed of a random ticket."""
    semantics: int = 1
    """Version of the pruning code: `PRUNE_SEMANTICS` when the trial was planned."""
    source: str = ""
    """Hash of the source of a pruning method from outside the package (64 hex digits); empty
    for a built-in one."""
    kind_source: str = ""
    """Hash of the source of a ticket kind from outside the package (64 hex digits); empty for a
    built-in one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewindSpec:
    """Save the weights (backbone and head) of a training run after a number of steps."""

    run: str
    """Key of the training run."""
    step: int
    """Optimizer steps after which the weights are saved."""


PRUNE_SEMANTICS = 1
"""Version of the pruning methods, raised by hand when a change alters which weights they keep."""

TrialSpec: TypeAlias = TrainSpec | PruneSpec | RewindSpec
TrialKind: TypeAlias = Literal["train", "prune", "rewind"]
SPEC_OF_KIND: dict[TrialKind, type[TrainSpec] | type[PruneSpec] | type[RewindSpec]] = {
    "train": TrainSpec,
    "prune": PruneSpec,
    "rewind": RewindSpec,
}
