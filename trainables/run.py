"""Run one trial: a training run under a ticket, or a prune trial that needs no training run.

`run` reads from top to bottom: build the network, load the start weights, apply the ticket, train,
check that the pruned weights stayed zero, and prune the next tickets. It has no access to a store,
Ray or MLflow: results are returned in the outcome or sent to the sink. On one kind of machine with
one number of threads, the same spec gives the same bits in a fresh process and in a warm one, and
resumed or not.
"""

from __future__ import annotations

import importlib
import resource
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.check import check_training
from trainables.data.augmentation.apply import Augmentation
from trainables.data.reference import DataReference
from trainables.distributed.collectives import Peers, Shard, current_peers
from trainables.distributed.process import Device, prepare_process
from trainables.errors import PluginError, RecipeError, TicketMismatch
from trainables.models import MODELS
from trainables.models.base import Backbone
from trainables.parts import check_part_sources
from trainables.pruning import PRUNERS, check_prune
from trainables.pruning.choose import WantedTicket, check_kind, prune_alone, prune_at_end
from trainables.seeds import derive
from trainables.spec import (
    BACKBONE,
    HEAD,
    PRUNE_SEMANTICS,
    TASK_STATE,
    PruneSpec,
    Recipe,
    TrainSpec,
)
from trainables.tasks import TASKS, embedding_extensions
from trainables.tasks.base import Task, TaskSource
from trainables.tickets import TICKET_KINDS
from trainables.tickets.base import Ticket, check_fit, kind_module, shapes_of
from trainables.tickets.weights import kept_sha256
from trainables.training import checks
from trainables.training.adversary import training_objective
from trainables.training.loop import (
    RunPlan,
    TrainState,
    init_task_state,
    load_task_state,
    resume,
    task_state,
    train,
)
from trainables.training.network import Network, load_weights
from trainables.training.prepare import prepared
from trainables.training.sink import Sink
from trainables.training.start import (
    extend_embeddings,
    extended_backbone,
    init_backbone,
    load_published,
    start_weights,
)
from trainables.user_modules import UserModule, install

__all__ = ["RunInputs", "RunOutcome", "Sink", "prune", "run"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInputs:
    """Inputs of a trial besides its spec: local paths, and the results of its parents."""

    data: DataReference | Path
    """The task's data."""
    cache: Path
    """Folder for decoded data, shared by the processes of this machine."""
    weights: Path | None = None
    """Published checkpoint file of a `pretrained` start."""
    rewind: Mapping[str, Tensor] | None = None
    """Rewind point of a `rewind` start: `backbone.*` and `head.*`, weights in float32 and buffers,
    and `task.*` if the task has state; on CPU."""
    ticket: Ticket | None = None
    """Ticket to apply."""
    reference: Ticket | None = None
    """Ticket whose count in each array a random ticket copies."""
    theta_sha256: str = ""
    """Hash of the start weights of the run that produced the ticket, if this run must start from
    the same ones: any other start is then refused."""
    checkpoint: bytes | None = None
    """Last checkpoint of an interrupted attempt, from which the run resumes."""
    device: Device = "cpu"
    threads: int = 1
    """CPU threads of each process."""
    modules: tuple[UserModule, ...] = ()
    """The user's own files, whose parts the trial uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """Results of a training run. `scores` is empty for a replay that stopped early."""

    scores: dict[str, float]
    """Percentages: `score` by the recipe's rule, the task's break-down, `last`, `best`, and `prior`
    (the score of a baseline without the image). Also `best_step`."""
    history: tuple[dict[str, float], ...]
    """Points of the curves. Each has `step` and some of: `loss` and `lr` (about 200 points),
    `score` (one point per evaluation)."""
    checks: dict[str, str | int]
    """`pruned_nonzero`, the number of units that the ticket turns off and that are not off, such as
    pruned weights that are not zero (always 0), and three hashes (64 hex digits) over weights,
    buffers and the task's state: `theta_sha256` of all at the start, `start_sha256` without the
    weights that the ticket holds at zero, and `final_sha256` at the end."""
    costs: dict[str, float] = field(compare=False)
    """`seconds`, `steps`, `evaluation_seconds`, `checkpoints` (their number) and
    `checkpoint_seconds`, `peak_rss_mb`, `parameters` (the number of those that take part in a
    forward pass under the ticket); on CUDA also `gpus` and `gpu_peak_mb`. Peaks of memory are
    in MiB, of one process."""
    gpu: str = field(compare=False, default="")
    """Name of the GPU that the trial ran on, which may not be the caller's; empty on CPUs."""


def run(
    spec: TrainSpec,
    inputs: RunInputs,
    sink: Sink,
    *,
    prunes: Mapping[str, PruneSpec] = MappingProxyType({}),
    rewinds: Collection[int] = (),
    until: int | None = None,
) -> RunOutcome:
    """Train `spec`; send the rewind points after the steps `rewinds` and the tickets of `prunes`
    (trial key -> spec) to the sink.

    `until` ends the run after that step without scoring or pruning: a replay that produces rewind
    points. Results do not depend on which tickets and rewind points are requested. Raises the
    errors of `trainables.errors`.
    """
    install_parts(spec, inputs.modules, prunes.values())
    check_training(spec, current_peers().world_size)
    prepare_process(inputs.device, inputs.threads)
    entry = TASKS[spec.task.name]
    extensions = embedding_extensions(spec.task.name, spec.model.architecture)
    backbone = extended_backbone(spec.model, extensions, spec.recipe.dropout)
    augmentation = Augmentation(spec.recipe.augmentation)
    features = spec.recipe.region_features
    source = TaskSource(inputs.data, inputs.cache, augmentation, features)
    task = importlib.import_module(entry.module).open_task(source, spec.task, backbone)
    return train_network(
        spec, backbone, task, inputs, sink, prunes=prunes, rewinds=rewinds, until=until
    )


def train_network(
    spec: TrainSpec,
    backbone: Backbone,
    task: Task,
    inputs: RunInputs,
    sink: Sink,
    *,
    prunes: Mapping[str, PruneSpec],
    rewinds: Collection[int],
    until: int | None,
) -> RunOutcome:
    """Do what `run` does with a given backbone and task. The backbone's weights are replaced."""
    peers = current_peers()
    ticket = _given_ticket(spec, inputs)
    _check_by_products(spec, ticket, prunes.values(), rewinds)
    masks = _weight_masks(ticket, backbone)
    start = _initial_state(spec, backbone, task, inputs)
    check_fit(masks, shapes_of(start))
    # Hash the parents' results before any code of this run can have changed them.
    theta_sha256 = checks.check_start_hash(start, inputs.theta_sha256, peers)
    plan = RunPlan(
        recipe=spec.recipe,
        objective=training_objective(task, spec.recipe, backbone.hidden_size),
        data_seed=_data_seed(spec),
        start_sha256=kept_sha256(start, masks) if masks else theta_sha256,
        first_step=spec.first_step,
        last_step=spec.recipe.steps if until is None else until,
        rewind_steps=frozenset(rewinds),
        masks=masks,
    )
    _check_steps(plan)
    net = Network(backbone, task.build_head(backbone))
    load_weights(net, {n: value for n, value in start.items() if not n.startswith(TASK_STATE)})
    load_task_state(task, start, masks)
    # Take names and shapes now: at ZeRO 3 DeepSpeed empties the weights, and their shapes are lost.
    wanted = {key: WantedTicket.of(each, backbone) for key, each in prunes.items()}
    parameters = _count_parameters(net, ticket)
    net.to(inputs.device)
    with prepared(net, spec, ticket, inputs.device) as ready:
        engine, plan = ready.engine, replace(plan, objective=ready.wrap(plan.objective))
        checks.check_engine_start(engine.owned_shards(), start | ready.added, masks, peers)
        checks.check_fresh_optimizer(engine.has_fresh_state(), peers)
        state = resume(engine, task, plan, inputs.checkpoint)
        train(engine, task, plan, state, sink)
        rates = state.first_rates, state.last_rates
        steps = plan.first_step, state.step
        checks.check_schedule(spec.recipe, steps, rates, engine.update_count())
        local_weights, masters = engine.local_weights(), engine.owned_shards()
        off = ready.applied.violations(_of_backbone(local_weights), _of_backbone(masters))
    violation = TICKET_KINDS[ticket.kind].violation if ticket else ""
    pruned_nonzero = checks.check_end(start, theta_sha256, masters, off, violation, peers)
    checks.check_ranks_agree(_replicated(local_weights, net, spec.recipe), peers)
    final = peers.gather_shards(masters, engine.shapes)
    final_state = task_state(task, peers)
    if until is None:
        own, full = _of_backbone(masters), _of_backbone(final)
        shapes = _of_backbone(engine.shapes)
        for key, each in wanted.items():
            chosen = prune_at_end(each, own, shapes, full, ticket, peers)
            if chosen is not None:
                sink.ticket(key, chosen)
    return RunOutcome(
        scores=_scores(spec, task, state),
        history=tuple(state.history),
        checks={
            "pruned_nonzero": pruned_nonzero,
            "theta_sha256": theta_sha256,
            "start_sha256": plan.start_sha256,
            "final_sha256": kept_sha256(final | final_state, {}),
        },
        costs=_costs(state, plan, inputs.device, peers) | {"parameters": float(parameters)},
        gpu=torch.cuda.get_device_name() if inputs.device == "cuda" else "",
    )


def prune(spec: PruneSpec, inputs: RunInputs) -> Ticket:
    """Return the ticket of a prune trial that needs no training run: a random ticket, or one from
    the untrained start weights (OMP).

    Raises RecipeError for a ticket that a training run produces, and the other errors of
    `trainables.errors`.
    """
    install_parts(spec, inputs.modules)
    torch.set_num_threads(inputs.threads)
    start: Mapping[str, Tensor] = {}
    if PRUNERS[spec.method].needs == "nothing":
        with torch.device("meta"):  # only names and shapes count
            backbone = init_backbone(spec.model, 0, 0.0)
    elif spec.start is not None:
        backbone = init_backbone(spec.model, 0, 0.0)
        start = start_weights(
            spec.model, spec.start, inputs.weights, inputs.rewind, backbone.prunable
        )
    else:
        raise RecipeError(
            f"prune: the training run {spec.run[:12]} produces this ticket; pass it to run() in "
            "`prunes`"
        )
    return prune_alone(
        spec,
        kind_module(spec.ticket_kind).space(backbone, spec.pool),
        backbone.prunable(spec.pool),
        _of_backbone(start),
        inputs.ticket,
        inputs.reference,
    )


def install_parts(
    spec: TrainSpec | PruneSpec,
    modules: Iterable[UserModule],
    prunes: Iterable[PruneSpec] = (),
) -> None:
    """Install the user's own files, and check that the parts that a trial and its by-products
    `prunes` use are those that it was planned with. Raises PluginError if they are not, and
    RecipeError for a ticket that its method does not make."""
    install(modules)
    model = spec.model
    MODELS.check_source(model.architecture, model.source)
    here = MODELS[model.architecture].semantics
    _check_semantics(f"model {model.architecture}", model.semantics, here)
    if isinstance(spec, TrainSpec):
        TASKS.check_source(spec.task.name, spec.task.source)
        here = TASKS[spec.task.name].semantics
        _check_semantics(f"task {spec.task.name}", spec.task.semantics, here)
        check_part_sources(spec)
        if spec.search is not None:
            PRUNERS.check_source(spec.search.method, spec.search.source)
    for each in (spec, *prunes):
        if isinstance(each, PruneSpec):
            check_prune(each)
            _check_semantics("pruning", each.semantics, PRUNE_SEMANTICS)
            PRUNERS.check_source(each.method, each.source)
            TICKET_KINDS.check_source(each.ticket_kind, each.kind_source)


def _check_semantics(what: str, planned: int, here: int) -> None:
    """Raise PluginError if a part's code on this machine gives other results than the code that the
    trial was planned with."""
    if here != planned:
        raise PluginError(
            f"{what}: the trial was planned with version {planned} of its code, this machine has"
            f" version {here}; install the same version of sweepstakes on all machines"
        )


def _data_seed(spec: TrainSpec) -> int:
    """Return the seed of the order of the examples, dropout, masking and negatives."""
    seed = spec.seeds.data
    return seed if spec.role == "evaluation" else derive(seed, spec.role)


def _given_ticket(spec: TrainSpec, inputs: RunInputs) -> Ticket | None:
    if bool(spec.ticket) != (inputs.ticket is not None):
        expected, given = ("a ticket", "none") if spec.ticket else ("no ticket", "one")
        raise TicketMismatch(f"ticket: the run expects {expected} but was given {given}")
    return inputs.ticket


def _weight_masks(ticket: Ticket | None, backbone: Backbone) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of the weights that the ticket holds at zero, by the network's names."""
    if ticket is None:
        return {}
    shapes = shapes_of(dict(backbone.named_parameters()))
    masks = kind_module(ticket.kind).weight_masks(shapes, ticket.arrays)
    return {BACKBONE + name: mask for name, mask in masks.items()}


def _check_by_products(
    spec: TrainSpec, ticket: Ticket | None, prunes: Iterable[PruneSpec], rewinds: Collection[int]
) -> None:
    """Check that the run can yield the tickets and rewind points that are wanted of it.

    Raises TicketMismatch if a ticket is of another kind than the applied one. Raises RecipeError if
    a ticket needs another search than the run's, or if a run with a search is to save weights, from
    which no other run could start.
    """
    method = spec.search and spec.search.method
    for each in prunes:
        check_kind(each, ticket)
        if PRUNERS[each.method].needs == "search" and each.method != method:
            raise RecipeError(
                f"pruning method {each.method!r}: needs a run that searches with it; this run "
                + (f"searches with {method!r}" if method else "does not search")
            )
    if method and rewinds:
        raise RecipeError(
            f"search {method!r}: its run saves no rewind points, because a network in search has "
            "other weights than the model; take them from a run without a search"
        )


def _replicated(
    local_weights: Mapping[str, Shard], net: Network, recipe: Recipe
) -> dict[str, Shard]:
    """Return what each process has in full: all but the weights that ZeRO 3 partitions."""
    partitioned = {name for name, _ in net.named_parameters()} if recipe.zero == 3 else set()
    return {name: each for name, each in local_weights.items() if name not in partitioned}


def _count_parameters(net: Network, ticket: Ticket | None) -> int:
    """Count the parameters that take part in a forward pass under the ticket."""
    head = sum(weight.numel() for weight in net.head.parameters())
    if ticket is None:
        return head + sum(weight.numel() for weight in net.backbone.parameters())
    return head + kind_module(ticket.kind).budget(net.backbone, ticket.arrays).parameters


def _of_backbone(named: Mapping[str, T]) -> dict[str, T]:
    """Return the entries of the backbone's tensors, by its own names."""
    return {
        name.removeprefix(BACKBONE): value
        for name, value in named.items()
        if name.startswith(BACKBONE)
    }


def _initial_state(
    spec: TrainSpec, backbone: Backbone, task: Task, inputs: RunInputs
) -> dict[str, Tensor]:
    """Return the start weights of backbone and head, and the task's state if it has one."""
    weights = _initial_weights(spec, backbone, task, inputs)
    return weights | init_task_state(task, weights)


def _initial_weights(
    spec: TrainSpec, backbone: Backbone, task: Task, inputs: RunInputs
) -> dict[str, Tensor]:
    """Return the start weights of backbone and head. A rewind point of the task itself may come
    with the task's state."""
    start = start_weights(spec.model, spec.start, inputs.weights, inputs.rewind, backbone.prunable)
    extensions = embedding_extensions(spec.task.name, spec.model.architecture)
    start = extend_embeddings(start, extensions, backbone.state_dict(), spec.start.seed)
    if spec.start.kind == "rewind" and spec.head == "rewind":
        return start
    # A pre-training run names its heads as published files do. Heads of other tasks do not match.
    heads: Mapping[str, Tensor] = {
        name.removeprefix(HEAD): value for name, value in start.items() if name.startswith(HEAD)
    }
    if spec.start.kind == "pretrained" and inputs.weights is not None:
        heads = load_published(spec.model, spec.start, inputs.weights).heads
    torch.manual_seed(derive(spec.seeds.head, "head"))
    head = task.init_from_pretrained(task.build_head(backbone).state_dict(), heads)
    return {name: value for name, value in start.items() if name.startswith(BACKBONE)} | {
        HEAD + name: value for name, value in head.items()
    }


def _check_steps(plan: RunPlan) -> None:
    outside = [step for step in plan.rewind_steps if not plan.first_step <= step <= plan.last_step]
    if plan.first_step > plan.last_step or plan.last_step > plan.recipe.steps or outside:
        raise RecipeError(
            f"steps {plan.first_step} to {plan.last_step} of {plan.recipe.steps} with rewind "
            f"points {sorted(plan.rewind_steps)}: the three numbers must be in ascending order, "
            "and the rewind points between the first two"
        )


def _scores(spec: TrainSpec, task: Task, state: TrainState) -> dict[str, float]:
    if not state.last or state.step < spec.recipe.steps:
        return {}
    chosen = state.last if spec.recipe.score == "last" else state.best
    return chosen | {
        "last": state.last["score"],
        "best": state.best["score"],
        "best_step": state.best_step,
        "prior": task.prior,
    }


def _costs(state: TrainState, plan: RunPlan, device: Device, peers: Peers) -> dict[str, float]:
    # ru_maxrss is the high-water mark of this process, in KiB (on macOS in bytes).
    unit = 2**20 if sys.platform == "darwin" else 2**10
    costs = {
        "seconds": state.seconds,
        "steps": float(state.step - plan.first_step),
        "evaluation_seconds": state.evaluation_seconds,
        "checkpoints": float(state.checkpoints),
        "checkpoint_seconds": state.checkpoint_seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }
    if device == "cuda":
        costs |= {
            "gpus": float(peers.world_size),
            "gpu_peak_mb": torch.cuda.max_memory_allocated() / 2**20,
        }
    return costs
