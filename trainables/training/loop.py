"""The training loop: takes steps, records losses, evaluates, saves rewind points and checkpoints.

Everything that a step needs is a function of the seeds and the step number. A run that resumes from
a checkpoint therefore continues bit for bit as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from torch import Tensor

from trainables.distributed.collectives import SINGLE_PROCESS, Peers
from trainables.errors import CheckpointError, InvariantError, Stopped
from trainables.optim import schedules
from trainables.seeds import Rng, derive
from trainables.spec import TASK_STATE, Recipe
from trainables.tasks.base import Task
from trainables.tickets.base import Masks, Space, shapes_of
from trainables.tickets.weights import kept_sha256
from trainables.training import checkpoint
from trainables.training.adversary import TrainingObjective
from trainables.training.engine import COUNTS, Engine, MicroBatch, pin_batch
from trainables.training.evaluate import evaluate
from trainables.training.order import BatchOrder, assign_pieces, pieces_per_process
from trainables.training.prefetch import prefetch
from trainables.training.sink import Sink

LOSS_POINTS = 200
"""Approximate number of losses in a history, however long the run is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What a run has to do. Steps count optimizer updates from the start of the schedule."""

    recipe: Recipe
    objective: TrainingObjective
    data_seed: int
    start_sha256: str
    """Hash of the start weights. A checkpoint of a run from other weights is refused."""
    first_step: int
    last_step: int
    """Step after which the run ends. Before `recipe.steps` it is a replay and is not scored."""
    rewind_steps: frozenset[int]
    """Steps after which the weights, and the task's state, are sent to the sink."""
    masks: Masks
    """Masks of the weights that the ticket holds at zero, by the network's tensor names; empty for
    a dense run, and for a ticket that leaves weights alone."""


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Progress of a run. A checkpoint holds it with the weights, the optimizer's state and the
    task's."""

    step: int
    """Number of steps of the schedule that are done."""
    history: list[dict[str, float]] = field(default_factory=list)
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    """Scores of the last and of the best evaluation, in percent; empty before the first."""
    best_step: int = 0
    losses: list[float] = field(default_factory=list)
    """Losses since the last point of the history."""
    first_rates: list[float] = field(default_factory=list)
    last_rates: list[float] = field(default_factory=list)
    """Learning rates of the optimizer at the first and at the last update, by parameter group."""
    evaluation_seconds: float = 0.0
    checkpoints: int = 0
    checkpoint_seconds: float = 0.0
    """Total time to collect the state and send it to the sink."""
    seconds: float = 0.0
    """Total time over all attempts, each up to its last checkpoint."""


def train(engine: Engine, task: Task, plan: RunPlan, state: TrainState, sink: Sink) -> None:
    """Train `engine` from `state` up to `plan.last_step`, updating both.

    Raises InvariantError, and Stopped if the sink asks for an early end.
    """
    last_time = time.monotonic()
    if state.step == plan.first_step:
        _save_rewind_point(engine, task, plan, state, sink)
    engine.net.train()
    with closing(prefetch(_micro_batches(engine, task, plan, state.step))) as micro_batches:
        while state.step < plan.last_step:
            loss, lr = _step(engine, plan, state.step, micro_batches)
            task.after_step(engine.masters)
            state.step += 1
            state.losses.append(loss)
            state.last_rates = engine.learning_rates()
            state.first_rates = state.first_rates or state.last_rates
            point = _loss_point(plan.recipe, state, lr) | _score(engine, task, plan, state, sink)
            if point:
                state.history.append({"step": state.step, **point})
                sink.progress(state.step, point)
            _save_rewind_point(engine, task, plan, state, sink)
            now = time.monotonic()
            state.seconds, last_time = state.seconds + now - last_time, now
            action = engine.peers.broadcast(sink.next_action(state.step))
            if action != "continue" and state.step < plan.last_step:
                _checkpoint(engine, task, plan, state, sink)
                if action == "stop":
                    # The first process to exit ends the group: wait until rank 0 has saved the
                    # state.
                    engine.peers.broadcast(action)
                    raise Stopped(f"stopped after step {state.step} of {plan.last_step}")


def _checkpoint(engine: Engine, task: Task, plan: RunPlan, state: TrainState, sink: Sink) -> None:
    begin = time.monotonic()
    sink.checkpoint(save_state(engine, task, plan, state))
    state.checkpoints += 1
    state.checkpoint_seconds += time.monotonic() - begin


def save_state(engine: Engine, task: Task, plan: RunPlan, state: TrainState) -> bytes:
    """Return the complete state of the run. `resume` is the inverse."""
    tensors = {f"weights/{name}": value for name, value in engine.weights().items()}
    for key, values in engine.optimizer_state().items():
        tensors |= {f"{key}/{name}": value for name, value in values.items()}
    tensors |= task_state(task, engine.peers)
    meta: dict[str, Any] = {
        "start_sha256": plan.start_sha256,
        "rewinds": sorted(step for step in plan.rewind_steps if step <= state.step),
        "progress": asdict(state),
    }
    return checkpoint.encode_checkpoint(tensors, meta)


def task_state(task: Task, peers: Peers) -> dict[str, Tensor]:
    """Return copies of the task's state, by names that begin with `TASK_STATE`.

    Raises InvariantError unless it is the same in all processes.
    """
    state = {
        TASK_STATE + name: value.detach().to("cpu", copy=True)
        for name, value in task.state().items()
    }
    sha256 = kept_sha256(state, {}) if state and peers.world_size > 1 else ""
    if peers.broadcast(sha256) != sha256:
        raise InvariantError(
            f"task state: process {peers.rank} of {peers.world_size} has another than process 0; "
            "a task must exchange what depends on a process's own examples (Task.after_step)"
        )
    return state


def init_task_state(task: Task, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the task's state at the start of a run: the one among the start weights, which come
    from a rewind point that has it, or a new one.

    Raises CheckpointError if the one of the rewind point is not the state of this task.
    """
    weights = {name: value for name, value in start.items() if not name.startswith(TASK_STATE)}
    fresh = {TASK_STATE + name: value for name, value in task.init_state(weights).items()}
    rewound = {name: value for name, value in start.items() if name.startswith(TASK_STATE)}
    if rewound:
        _check_layout(shapes_of(rewound), shapes_of(fresh), "rewind point")
    return rewound or fresh


def load_task_state(task: Task, tensors: Mapping[str, Tensor], masks: Masks) -> None:
    """Set the task's state to that among `tensors`; `masks` are those of `RunPlan.masks`."""
    state = {
        name.removeprefix(TASK_STATE): value
        for name, value in tensors.items()
        if name.startswith(TASK_STATE)
    }
    if state:
        task.load_state(state, masks)


def _engine_layout(engine: Engine, saved: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the engine's tensors in a checkpoint with the names `saved`,
    which may lack the counts of any weights."""
    return {
        f"{key}/{name}": tuple(shape)
        for key, shapes in engine.state_shapes().items()
        for name, shape in shapes.items()
        if key != COUNTS or f"{key}/{name}" in saved
    }


def _check_layout(given: Space, own: Space, what: str) -> None:
    wrong = sorted(given.keys() ^ own.keys()) or sorted(
        name for name in own if given[name] != own[name]
    )
    if wrong:
        raise CheckpointError(
            f"{what}: {wrong[0]} (and {len(wrong) - 1} more) differ from the run's state in name "
            "or shape; delete it so that it is produced again"
        )


def resume(engine: Engine, task: Task, plan: RunPlan, payload: bytes | None) -> TrainState:
    """Return the state from which the run continues, and load it into the engine and the task.

    It is the start of the run if there is no checkpoint, or if the checkpoint is past a rewind
    point that is requested now and was not saved. Raises CheckpointError for a checkpoint of
    another run or of another version of the code.
    """
    fresh = TrainState(step=plan.first_step)
    if payload is None:
        return fresh
    tensors, meta = checkpoint.decode_checkpoint(payload)
    try:
        start_sha256, saved = meta["start_sha256"], set(meta["rewinds"])
        state = TrainState(**meta["progress"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint: another version of the code wrote it ({error})"
        ) from None
    if start_sha256 != plan.start_sha256:
        raise CheckpointError(
            "checkpoint: it belongs to a run from other start weights; delete it to start over"
        )
    passed = {step for step in plan.rewind_steps if step <= state.step}
    if state.step > plan.last_step or not passed <= saved:
        return fresh
    expected = shapes_of(task_state(task, SINGLE_PROCESS)) | _engine_layout(engine, tensors)
    _check_layout(shapes_of(tensors), expected, "checkpoint")
    saved_task = {name: value for name, value in tensors.items() if name.startswith(TASK_STATE)}
    by_key: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in tensors.keys() - saved_task.keys():
        key, _, weight = name.partition("/")
        by_key[key][weight] = tensors[name]
    engine.set_weights(by_key["weights"])
    engine.set_optimizer_state(by_key, state.step - plan.first_step)
    load_task_state(task, saved_task, plan.masks)
    return state


def _micro_batches(engine: Engine, task: Task, plan: RunPlan, first: int) -> Iterator[MicroBatch]:
    """Yield this process's micro-batches of all steps from `first` on."""
    peers, seed = engine.peers, plan.data_seed
    order = BatchOrder.of(plan.recipe, task, seed)
    for step in range(first, plan.last_step):
        for piece in assign_pieces(order.micro_batches(step), peers):
            batch = task.train_batch(piece.indices, Rng(seed, "batch", step, piece.number))
            # A single process seeds dropout once per step, for all of its micro-batches.
            dropout = None if peers.world_size == 1 else derive(seed, "dropout", step, piece.number)
            yield MicroBatch(pin_batch(batch, engine.device), piece.loss_divisor, dropout)


def _step(
    engine: Engine, plan: RunPlan, step: int, micro_batches: Iterator[MicroBatch]
) -> tuple[float, float]:
    """Take one step. Return the loss before the update, and the learning rate."""
    lr = schedules.lr_at(plan.recipe, step)
    if engine.peers.world_size == 1:
        engine.seed(derive(plan.data_seed, "dropout", step))
    count = pieces_per_process(plan.recipe.accumulate, engine.peers)
    return engine.step(islice(micro_batches, count), plan.objective, lr), lr


def _loss_point(recipe: Recipe, state: TrainState, lr: float) -> dict[str, float]:
    """Return the learning rate and the mean loss since the last point, every `steps / LOSS_POINTS`
    steps and at the end; otherwise an empty mapping."""
    every = math.ceil(recipe.steps / LOSS_POINTS)
    if state.step % every and state.step < recipe.steps:
        return {}
    mean = math.fsum(state.losses) / len(state.losses)
    state.losses.clear()
    return {"loss": mean, "lr": lr}


def _score(
    engine: Engine, task: Task, plan: RunPlan, state: TrainState, sink: Sink
) -> dict[str, float]:
    """Evaluate at the steps that the recipe sets and at the end of its schedule; not in a
    replay."""
    recipe, step = plan.recipe, state.step
    due = step == recipe.steps or (recipe.eval_every > 0 and step % recipe.eval_every == 0)
    if not due or plan.last_step < recipe.steps:
        return {}
    begin = time.monotonic()
    state.last = evaluate(
        engine.net,
        task,
        recipe.eval_examples,
        engine.device,
        peers=engine.peers,
        lockstep=recipe.zero == 3,
        heartbeat=sink.heartbeat,
    )
    if not state.best or state.last["score"] > state.best["score"]:
        state.best, state.best_step = state.last, step
    state.evaluation_seconds += time.monotonic() - begin
    return {"score": state.last["score"]}


def _save_rewind_point(
    engine: Engine, task: Task, plan: RunPlan, state: TrainState, sink: Sink
) -> None:
    if state.step in plan.rewind_steps:
        tensors = engine.weights() | task_state(task, engine.peers)
        payload = checkpoint.encode_checkpoint(tensors, {"step": state.step})
        sink.rewind(state.step, payload)
