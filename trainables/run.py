"""Run one trial: a training run under a ticket, or a cut that rides none.

`run` reads from top to bottom: build, load the start weights, wear the ticket, train, prove that
the ticket held, cut the next ones. It knows no store, no Ray and no MLflow: results leave through
the sink and the outcome. The same spec gives the same bits in a fresh process and in a warm one,
in one go and resumed, on one kind of machine with one number of threads.
"""

from __future__ import annotations

import importlib
import resource
import sys
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.distributed.collectives import Peers, here
from trainables.distributed.process import Device, prepare_process
from trainables.errors import RecipeError, TicketMismatch
from trainables.models.base import Backbone
from trainables.pruning.choose import choose, choose_among
from trainables.seeds import derive
from trainables.spec import CutSpec, TrainSpec
from trainables.tasks import TASKS
from trainables.tasks.base import Source, Task
from trainables.tickets.weights import Masks, check_fit, kept_sha256, wearing
from trainables.training import checks
from trainables.training import recipe as recipes
from trainables.training.adversary import objective_of
from trainables.training.engine import compiling, started
from trainables.training.loop import Course, Progress, resume, train
from trainables.training.network import Network, load_weights
from trainables.training.sink import Sink
from trainables.training.start import (
    drawn_backbone,
    grow,
    grown_backbone,
    published,
    start_weights,
)

__all__ = ["Inputs", "Outcome", "Sink", "cut", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a trial needs beside its spec: where things lie here, and what its parents made."""

    data: Path
    cache: Path
    """Folder for decoded data, shared by the processes of this machine."""
    weights: Path | None = None
    """The published checkpoint file of a `pretrained` start."""
    rewind: Mapping[str, Tensor] | None = None
    """The rewind point of a `rewind` start: `backbone.*` and `head.*`, float32, on CPU."""
    ticket: Masks | None = None
    """The ticket to wear, by the backbone's own tensor names."""
    like: Masks | None = None
    """Of a random cut: the ticket whose count in each tensor to copy."""
    theta_sha256: str = ""
    """That of the run that cut the ticket, if both start alike: another start is then refused."""
    checkpoint: bytes | None = None
    """What the sink was last given by an attempt that was cut short."""
    device: Device = "cpu"
    threads: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Of a training run. `scores` is empty for a replay that stopped early."""

    scores: dict[str, float]
    """Percent: `score` by the recipe's rule, the task's break-down, `last`, `best`, `prior` (what
    the question alone gives); and `best_step`."""
    history: tuple[dict[str, float], ...]
    """`step` with `loss` and `lr` (about 200 of them), `score` where it was evaluated."""
    checks: dict[str, str | int]
    """`pruned_nonzero`; `theta_sha256` of all start weights, `start_sha256` of those that the
    ticket keeps, and `final_sha256`."""
    costs: dict[str, float] = field(compare=False)
    """`seconds`, `steps`, `evaluation_seconds`, `checkpoints` and `checkpoint_seconds`,
    `peak_rss_mb`; on CUDA `gpus`, `gpu_peak_mb`."""
    gpu: str = field(compare=False, default="")
    """What it ran on, which the caller's machine may not have; empty on CPUs."""


def run(
    spec: TrainSpec,
    inputs: Inputs,
    sink: Sink,
    *,
    cuts: Mapping[str, CutSpec] = MappingProxyType({}),
    rewinds: Collection[int] = (),
    until: int | None = None,
) -> Outcome:
    """Trains `spec`, gives the sink the rewind points at steps `rewinds` and the riding `cuts`.

    `until` ends the run after that step, unscored and uncut: a replay for rewind points. Asking
    for other cuts or rewind points changes no result. Raises the errors of `trainables.errors`.
    """
    recipes.check(spec.recipe)
    prepare_process(inputs.device, inputs.threads)
    entry = TASKS[spec.task.name]
    growths = entry.grows.get(spec.model.architecture, ())
    backbone = grown_backbone(spec.model, growths, spec.recipe.dropout)
    source = Source(inputs.data, inputs.cache)
    task = importlib.import_module(entry.module).open_task(source, spec.task, backbone)
    return train_network(
        spec, backbone, task, inputs, sink, cuts=cuts, rewinds=rewinds, until=until
    )


def train_network(
    spec: TrainSpec,
    backbone: Backbone,
    task: Task,
    inputs: Inputs,
    sink: Sink,
    *,
    cuts: Mapping[str, CutSpec],
    rewinds: Collection[int],
    until: int | None,
) -> Outcome:
    """`run` with the backbone and the task already built; the backbone's weights are replaced."""
    peers = here()
    masks = _worn(spec, inputs)
    start = _start(spec, backbone, task, inputs)
    check_fit(masks, start)
    # Taken from what the parents made, before anything of ours has touched it.
    theta_sha256 = checks.check_theta(start, inputs.theta_sha256, peers)
    start_sha256 = kept_sha256(start, masks) if masks else theta_sha256
    course = Course(
        recipe=spec.recipe,
        objective=objective_of(task, spec.recipe, backbone.hidden_size),
        data_seed=_data_seed(spec),
        start_sha256=start_sha256,
        first=spec.first_step,
        end=spec.recipe.steps if until is None else until,
        rewinds=frozenset(rewinds),
    )
    _check_steps(course)
    net = Network(backbone, task.build_head(backbone))
    load_weights(net, start)
    # Named now: at ZeRO 3 DeepSpeed empties the weights, and no shape is left to tell them by.
    pools = {wanted.pool: backbone.prunable(wanted.pool) for wanted in cuts.values()}
    net.to(inputs.device)
    compiled = compiling(net) if spec.recipe.compile else nullcontext()
    with compiled, wearing(net, masks), started(net, spec.recipe, inputs.device) as engine:
        checks.check_start(engine.held(), start, masks, peers)
        progress = resume(engine, course, inputs.checkpoint)
        train(engine, task, course, progress, sink)
        used = progress.first_rates, progress.last_rates
        steps = course.first, progress.step
        checks.check_schedule(spec.recipe, steps, used, engine.updates())
        own, held = engine.own(), engine.held()
    nonzero = checks.check_end(start, theta_sha256, own, held, masks, peers)
    if peers.count > 1 and spec.recipe.zero < 3:
        checks.check_alike(own, peers)
    final = peers.assembled(held, engine.shapes)
    if until is None:
        for key, wanted in cuts.items():
            pool = pools[wanted.pool]
            sink.cut(key, choose_among(wanted, pool, held, final, inputs.ticket, peers))
    return Outcome(
        scores=_scores(spec, task, progress),
        history=tuple(progress.history),
        checks={
            "pruned_nonzero": nonzero,
            "theta_sha256": theta_sha256,
            "start_sha256": start_sha256,
            "final_sha256": kept_sha256(final, {}),
        },
        costs=_costs(progress, course, inputs.device, peers),
        gpu=torch.cuda.get_device_name() if inputs.device == "cuda" else "",
    )


def cut(spec: CutSpec, inputs: Inputs) -> dict[str, NDArray[np.bool_]]:
    """The ticket of a cut that rides no training run: random, or of the untrained start (OMP)."""
    torch.set_num_threads(inputs.threads)
    if spec.method == "random":
        with torch.device("meta"):  # only names and shapes count
            backbone = drawn_backbone(spec.model, 0, 0.0)
        start = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    elif spec.start is not None:
        backbone = drawn_backbone(spec.model, 0, 0.0)
        start = start_weights(
            spec.model, spec.start, inputs.weights, inputs.rewind, backbone.prunable
        )
    else:
        raise ValueError(f"cut: it rides the run {spec.run[:12]}; ask run() for it")
    names = backbone.prunable(spec.pool)
    return choose(spec, names, start, inputs.ticket, inputs.like)


def _data_seed(spec: TrainSpec) -> int:
    """Orders the examples and drives dropout, masking and negatives."""
    seed = spec.seeds.data
    return seed if spec.role == "evaluation" else derive(seed, spec.role)


def _worn(spec: TrainSpec, inputs: Inputs) -> dict[str, NDArray[np.bool_]]:
    """The ticket by the network's names; empty for a dense run."""
    if bool(spec.ticket) != (inputs.ticket is not None):
        asked, given = ("a ticket", "none") if spec.ticket else ("no ticket", "one")
        raise TicketMismatch(f"ticket: the run wears {asked} but was given {given}")
    return {f"backbone.{name}": kept for name, kept in (inputs.ticket or {}).items()}


def _start(spec: TrainSpec, backbone: Backbone, task: Task, inputs: Inputs) -> dict[str, Tensor]:
    """Start weights of backbone and head."""
    start = start_weights(spec.model, spec.start, inputs.weights, inputs.rewind, backbone.prunable)
    growths = TASKS[spec.task.name].grows.get(spec.model.architecture, ())
    start = grow(start, growths, backbone.state_dict(), spec.start.seed)
    if spec.start.kind == "rewind" and spec.head == "rewind":
        return start
    # A pre-training run names its heads as the published files do; other tasks' are not taken.
    left = {n.removeprefix("head."): value for n, value in start.items() if n.startswith("head.")}
    heads: Mapping[str, Tensor] = left
    if spec.start.kind == "pretrained" and inputs.weights is not None:
        heads = published(spec.model, spec.start, inputs.weights).heads
    torch.manual_seed(derive(spec.seeds.head, "head"))
    head = task.adopt(task.build_head(backbone).state_dict(), heads)
    return {name: value for name, value in start.items() if name.startswith("backbone.")} | {
        f"head.{name}": value for name, value in head.items()
    }


def _check_steps(course: Course) -> None:
    outside = [step for step in course.rewinds if not course.first <= step <= course.end]
    if course.first > course.end or course.end > course.recipe.steps or outside:
        raise RecipeError(
            f"steps {course.first} to {course.end} of {course.recipe.steps} with rewind points "
            f"{sorted(course.rewinds)}: they must be in this order, and points in between"
        )


def _scores(spec: TrainSpec, task: Task, progress: Progress) -> dict[str, float]:
    if not progress.last or progress.step < spec.recipe.steps:
        return {}
    chosen = progress.last if spec.recipe.score == "last" else progress.best
    return chosen | {
        "last": progress.last["score"],
        "best": progress.best["score"],
        "best_step": progress.best_step,
        "prior": task.prior,
    }


def _costs(progress: Progress, course: Course, device: Device, peers: Peers) -> dict[str, float]:
    # ru_maxrss is the process's own high-water mark, in KiB except on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    costs = {
        "seconds": progress.seconds,
        "steps": float(progress.step - course.first),
        "evaluation_seconds": progress.evaluation_seconds,
        "checkpoints": float(progress.checkpoints),
        "checkpoint_seconds": progress.checkpoint_seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }
    if device == "cuda":
        costs |= {
            "gpus": float(peers.count),
            "gpu_peak_mb": torch.cuda.max_memory_allocated() / 2**20,
        }
    return costs
