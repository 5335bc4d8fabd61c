"""The training loop: step, record, evaluate now and then, keep rewind points and checkpoints.

Everything that a step needs is a function of the seeds and its number, so a run that resumes from a
checkpoint continues bit for bit as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor

from trainables.errors import CheckpointError, Stopped
from trainables.optim import schedules
from trainables.optim.adamw import MOMENTS
from trainables.seeds import Chance, derive
from trainables.spec import Recipe
from trainables.tasks.base import Task
from trainables.training import checkpoint
from trainables.training.adversary import Objective
from trainables.training.engine import Engine, Micro, pinned
from trainables.training.evaluate import evaluate
from trainables.training.order import Order, pieces, pieces_each
from trainables.training.prefetch import ahead
from trainables.training.sink import Sink

LOSS_POINTS = 200
"""A history holds about so many losses, however long the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What to do, step by step. Steps count optimizer updates, from the schedule's start."""

    recipe: Recipe
    objective: Objective
    data_seed: int
    start_sha256: str
    """Of the weights the run starts from; a checkpoint of another start is refused."""
    first: int
    end: int
    """Stop after this step; before `recipe.steps` the run is a replay and is not scored."""
    rewinds: frozenset[int]
    """Steps after which the weights are handed to the sink."""


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a run is: with the weights and Adam's moments, all that a checkpoint holds."""

    step: int
    history: list[dict[str, float]] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    losses: list[float] = field(default_factory=list)
    """Since the last point of the history."""
    first_rates: list[float] = field(default_factory=list)
    last_rates: list[float] = field(default_factory=list)
    """Learning rates in the optimizer at the first and at the last update, by group."""
    evaluation_seconds: float = 0.0
    checkpoints: int = 0
    checkpoint_seconds: float = 0.0
    """Taking the state and handing it over."""
    seconds: float = 0.0
    """All over all attempts, up to the last checkpoint of each."""


def train(engine: Engine, task: Task, course: Course, progress: Progress, sink: Sink) -> None:
    """Takes `engine` and `progress` from where they are to `course.end`.

    Raises InvariantError, and Stopped if the sink asks for an early end.
    """
    mark = time.monotonic()
    if progress.step == course.first:
        _keep_rewind(engine, course, progress, sink)
    engine.net.train()
    with closing(ahead(_micros(engine, task, course, progress.step))) as micros:
        while progress.step < course.end:
            loss, lr = _step(engine, course, progress.step, micros)
            progress.step += 1
            progress.losses.append(loss)
            progress.last_rates = engine.rates()
            progress.first_rates = progress.first_rates or progress.last_rates
            point = _loss_point(course.recipe, progress, lr) | _score(
                engine, task, course, progress, sink
            )
            if point:
                progress.history.append({"step": progress.step, **point})
                sink.progress(progress.step, point)
            _keep_rewind(engine, course, progress, sink)
            now = time.monotonic()
            progress.seconds, mark = progress.seconds + now - mark, now
            turn = engine.peers.agreed(sink.turn(progress.step))
            if turn != "go on" and progress.step < course.end:
                _checkpoint(engine, course, progress, sink)
                if turn == "stop":
                    # Whoever ends first ends all, and only the first one's state is on its way.
                    engine.peers.agreed(turn)
                    raise Stopped(f"stopped after step {progress.step} of {course.end}")


def _checkpoint(engine: Engine, course: Course, progress: Progress, sink: Sink) -> None:
    begin = time.monotonic()
    sink.checkpoint(save(engine, course, progress))
    progress.checkpoints += 1
    progress.checkpoint_seconds += time.monotonic() - begin


def save(engine: Engine, course: Course, progress: Progress) -> bytes:
    """The whole state of the run; `resume` is its inverse."""
    tensors = {f"weights/{name}": value for name, value in engine.weights().items()}
    for kind, values in engine.moments().items():
        tensors |= {f"{kind}/{name}": value for name, value in values.items()}
    meta: dict[str, Any] = {
        "start_sha256": course.start_sha256,
        "rewinds": sorted(step for step in course.rewinds if step <= progress.step),
        "progress": asdict(progress),
    }
    return checkpoint.encode(tensors, meta)


def resume(engine: Engine, course: Course, payload: bytes | None) -> Progress:
    """The progress to go on from; the engine is put there too.

    That is the beginning without a checkpoint, and also where a rewind point that is wanted now
    was passed without being kept. Raises CheckpointError if it is another run's or version's.
    """
    fresh = Progress(step=course.first)
    if payload is None:
        return fresh
    tensors, meta = checkpoint.decode(payload)
    try:
        start_sha256, kept = meta["start_sha256"], set(meta["rewinds"])
        progress = Progress(**meta["progress"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint: another version of the code wrote it ({error})"
        ) from None
    if start_sha256 != course.start_sha256:
        raise CheckpointError(
            "checkpoint: it belongs to a run from other start weights; delete it to start over"
        )
    passed = {step for step in course.rewinds if step <= progress.step}
    if progress.step > course.end or not passed <= kept:
        return fresh
    engine.set_weights(_under("weights", tensors))
    moments = {kind: _under(kind, tensors) for kind in MOMENTS}
    engine.set_moments(moments, progress.step - course.first)
    return progress


def _micros(engine: Engine, task: Task, course: Course, first: int) -> Iterator[Micro]:
    """What this process takes of all steps from `first` on."""
    peers, seed = engine.peers, course.data_seed
    order = Order(course.recipe, task.lengths(), seed)
    for step in range(first, course.end):
        for piece in pieces(order.micro_batches(step), peers):
            batch = task.train_batch(piece.indices, Chance(seed, "batch", step, piece.place))
            # A process alone has one stream for all micro-batches of the step, seeded before it.
            dropout = None if peers.count == 1 else derive(seed, "dropout", step, piece.place)
            yield Micro(pinned(batch, engine.device), piece.parts, dropout)


def _step(
    engine: Engine, course: Course, step: int, micros: Iterator[Micro]
) -> tuple[float, float]:
    """The loss before the update, and its learning rate."""
    lr = schedules.lr_at(course.recipe, step)
    if engine.peers.count == 1:
        engine.seed(derive(course.data_seed, "dropout", step))
    these = islice(micros, pieces_each(course.recipe.accumulate, engine.peers))
    return engine.step(these, course.objective, lr), lr


def _loss_point(plan: Recipe, progress: Progress, lr: float) -> dict[str, float]:
    """Mean loss since the last point, every `steps / 200` steps and at the end."""
    every = math.ceil(plan.steps / LOSS_POINTS)
    if progress.step % every and progress.step < plan.steps:
        return {}
    mean = math.fsum(progress.losses) / len(progress.losses)
    progress.losses.clear()
    return {"loss": mean, "lr": lr}


def _score(
    engine: Engine, task: Task, course: Course, progress: Progress, sink: Sink
) -> dict[str, float]:
    """Evaluates where the recipe says so, and at the end of its schedule; not in a replay."""
    plan, step = course.recipe, progress.step
    due = step == plan.steps or (plan.eval_every > 0 and step % plan.eval_every == 0)
    if not due or course.end < plan.steps:
        return {}
    started = time.monotonic()
    progress.last = evaluate(
        engine.net,
        task,
        plan.eval_examples,
        engine.device,
        peers=engine.peers,
        in_step=plan.zero == 3,
        alive=sink.alive,
    )
    if not progress.best or progress.last["score"] > progress.best["score"]:
        progress.best, progress.best_step = progress.last, step
    progress.evaluation_seconds += time.monotonic() - started
    return {"score": progress.last["score"]}


def _keep_rewind(engine: Engine, course: Course, progress: Progress, sink: Sink) -> None:
    if progress.step in course.rewinds:
        payload = checkpoint.encode(engine.weights(), {"step": progress.step})
        sink.rewind(progress.step, payload)


def _under(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{kind}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{kind}/")
    }
